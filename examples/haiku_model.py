"""A network in Haiku by its function, under PGD and AutoAttack (package dm-haiku).

Evaluate it with the whole suite, from the folder above:

    python -m jaxrobust.evaluation --model 'examples.haiku_model:build()'
      --data digits --eps 0.1 --workdir runs/haiku

or run it: `python -m examples.haiku_model`.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from jaxrobust import attacks, data, evaluation, losses


def build(steps=100):
    """Trains on the digits and returns `logits(x)`, images [B, 8, 8, 1] to [B, 10]."""
    train = data.load("digits", "train")
    x, y = jnp.asarray(train.images, jnp.float32) / 255, jnp.asarray(train.labels)
    forward = lambda x: hk.nets.MLP([64, 10])(x.reshape(len(x), -1))  # noqa: E731
    net = hk.without_apply_rng(hk.transform(forward))
    weights, tx = net.init(jax.random.key(0), x[:1]), optax.adam(1e-2)

    def step(carry, _):
        weights, state = carry
        loss = lambda w: losses.cross_entropy(net.apply(w, x), y).mean()  # noqa: E731
        updates, state = tx.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    start = (weights, tx.init(weights))
    (weights, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(start)
    return lambda x: net.apply(weights, x)


if __name__ == "__main__":
    logits, test = build(), data.load("digits", "test").take(range(100))
    x, y = jnp.asarray(test.images, jnp.float32) / 255, jnp.asarray(test.labels)
    key = jax.random.key(0)
    x_adv = attacks.pgd(logits, x, y, key=key, eps=0.1, step_size=0.025, steps=20)
    for name, images in (("clean", x), ("PGD", x_adv)):
        print(f"{name}: {(logits(images).argmax(-1) == y).mean():.1%}")
    found = evaluation.autoattack(logits, x, y, key=key, eps=0.1)
    print(f"AutoAttack: {found.robust_accuracy:.1%}")
