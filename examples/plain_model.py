"""A network in plain JAX: a dict of weights and a function.

Evaluate it with the whole suite, from the folder above:

    python -m jaxrobust.evaluation --model 'examples.plain_model:build()'
      --data digits --eps 0.1 --workdir runs/plain

or attack it: `python -m examples.plain_model`.
"""

import jax
import jax.numpy as jnp
import optax

from jaxrobust import attacks, data, losses


def apply(weights, x):
    """Maps images [B, 8, 8, 1] to logits [B, 10]."""
    h = jnp.tanh(x.reshape(len(x), -1) @ weights["w1"] + weights["b1"][None])
    return h @ weights["w2"] + weights["b2"][None]


def build(steps=150):
    """Trains on the digits and returns `logits(x)`."""
    train = data.load("digits", "train")
    x, y = jnp.asarray(train.images, jnp.float32) / 255, jnp.asarray(train.labels)
    keys = jax.random.split(jax.random.key(0))
    weights = {
        "w1": jax.random.normal(keys[0], (64, 64)) / 8,
        "b1": jnp.zeros(64),
        "w2": jax.random.normal(keys[1], (64, 10)) / 8,
        "b2": jnp.zeros(10),
    }
    tx = optax.adam(1e-2)

    def step(carry, _):
        weights, state = carry
        grad = jax.grad(lambda w: losses.cross_entropy(apply(w, x), y).mean())(weights)
        updates, state = tx.update(grad, state)
        return (optax.apply_updates(weights, updates), state), None

    start = (weights, tx.init(weights))
    (weights, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(start)

    def logits(x):
        return apply(weights, x)

    return logits


if __name__ == "__main__":
    logits, test = build(), data.load("digits", "test")
    x, y = jnp.asarray(test.images, jnp.float32) / 255, jnp.asarray(test.labels)
    x_adv = attacks.pgd(
        logits, x, y, key=jax.random.key(0), eps=0.1, step_size=0.025, steps=20
    )
    for name, images in (("clean", x), ("attacked", x_adv)):
        print(f"{name}: {(logits(images).argmax(-1) == y).mean():.1%}")
