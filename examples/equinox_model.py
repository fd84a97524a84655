"""A network in Equinox, under PGD and AutoAttack (package equinox).

Evaluate it with the whole suite, from the folder above:

    python -m jaxrobust.evaluation --model 'examples.equinox_model:build()'
      --data digits --eps 0.1 --workdir runs/equinox

or run it: `python -m examples.equinox_model`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from jaxrobust import attacks, data, evaluation, losses


def build(steps=100):
    """Trains on the digits and returns `logits(x)`, images [B, 8, 8, 1] to [B, 10]."""
    train = data.load("digits", "train")
    x, y = jnp.asarray(train.images, jnp.float32) / 255, jnp.asarray(train.labels)
    net = eqx.nn.MLP(64, 10, 64, depth=1, key=jax.random.key(0))
    tx = optax.adam(1e-2)
    weights, rest = eqx.partition(net, eqx.is_array)

    def apply(weights, x):
        return jax.vmap(eqx.combine(weights, rest))(x.reshape(len(x), -1))

    def step(carry, _):
        weights, state = carry
        grad = jax.grad(lambda w: losses.cross_entropy(apply(w, x), y).mean())(weights)
        updates, state = tx.update(grad, state)
        return (optax.apply_updates(weights, updates), state), None

    start = (weights, tx.init(weights))
    (weights, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(start)
    return lambda x: apply(weights, x)


if __name__ == "__main__":
    logits, test = build(), data.load("digits", "test").take(range(100))
    x, y = jnp.asarray(test.images, jnp.float32) / 255, jnp.asarray(test.labels)
    key = jax.random.key(0)
    x_adv = attacks.pgd(logits, x, y, key=key, eps=0.1, step_size=0.025, steps=20)
    for name, images in (("clean", x), ("PGD", x_adv)):
        print(f"{name}: {(logits(images).argmax(-1) == y).mean():.1%}")
    found = evaluation.autoattack(logits, x, y, key=key, eps=0.1)
    print(f"AutoAttack: {found.robust_accuracy:.1%}")
