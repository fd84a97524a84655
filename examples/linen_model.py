"""A network in Flax Linen.

Evaluate it with the whole suite, from the folder above:

    python -m jaxrobust.evaluation --model 'examples.linen_model:build()'
      --data digits --eps 0.1 --workdir runs/linen

or attack it: `python -m examples.linen_model`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrobust import attacks, data, losses, models


class Net(nn.Module):
    """Two normalised dense layers: images [B, 8, 8, 1] to logits [B, 10]."""

    @nn.compact
    def __call__(self, x, train=False):
        """Train mode is the same as evaluation mode here."""
        x = x.reshape(len(x), -1)
        for width in (64, 32):
            x = nn.relu(nn.LayerNorm()(nn.Dense(width)(x)))
        return nn.Dense(10)(x)


def build(steps=100):
    """Trains on the digits and returns `logits(x)`."""
    train, net = data.load("digits", "train"), Net()
    x, y = jnp.asarray(train.images, jnp.float32) / 255, jnp.asarray(train.labels)
    variables = jax.jit(net.init)(jax.random.key(0), x[:1])
    tx = optax.adam(1e-2)
    state = tx.init(variables)

    @jax.jit
    def step(variables, state):
        def loss(v):
            return losses.cross_entropy(net.apply(v, x), y).mean()

        updates, state = tx.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    for _ in range(steps):
        variables, state = step(variables, state)
    return models.logits_fn(net, variables)


if __name__ == "__main__":
    logits, test = build(), data.load("digits", "test")
    x, y = jnp.asarray(test.images, jnp.float32) / 255, jnp.asarray(test.labels)
    x_adv = attacks.pgd(
        logits, x, y, key=jax.random.key(0), eps=0.1, step_size=0.025, steps=20
    )
    for name, images in (("clean", x), ("attacked", x_adv)):
        print(f"{name}: {(logits(images).argmax(-1) == y).mean():.1%}")
