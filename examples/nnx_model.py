"""A network in Flax NNX, with BatchNorm and dropout.

Evaluate it with the whole suite, from the folder above:

    python -m jaxrobust.evaluation --model 'examples.nnx_model:build()'
      --data digits --eps 0.1 --workdir runs/nnx

or attack it: `python -m examples.nnx_model`.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxrobust import attacks, data, losses


class Net(nnx.Module):
    """A convolution and two dense layers: images [B, 8, 8, 1] to logits [B, 10]."""

    def __init__(self, rngs):
        """Makes the layers."""
        self.conv = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.hidden = nnx.Linear(256, 32, rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        """Computes the logits in the mode that `train()` or `eval()` set."""
        x = nnx.relu(self.norm(self.conv(x)))
        x = self.dropout(nnx.relu(self.hidden(x.reshape(len(x), -1))))
        return self.out(x)


def build(steps=100):
    """Trains on the digits and returns the network: a function of images."""
    train, net = data.load("digits", "train"), Net(nnx.Rngs(0))
    x, y = jnp.asarray(train.images, jnp.float32) / 255, jnp.asarray(train.labels)
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        grads = nnx.grad(lambda n: losses.cross_entropy(n(x), y).mean())(net)
        optimizer.update(net, grads)

    for _ in range(steps):
        step(net, optimizer)
    net.eval()  # BatchNorm by its running averages, no dropout
    return net


if __name__ == "__main__":
    logits, test = build(), data.load("digits", "test")
    x, y = jnp.asarray(test.images, jnp.float32) / 255, jnp.asarray(test.labels)
    x_adv = attacks.pgd(
        logits, x, y, key=jax.random.key(0), eps=0.1, step_size=0.025, steps=20
    )
    for name, images in (("clean", x), ("attacked", x_adv)):
        print(f"{name}: {(logits(images).argmax(-1) == y).mean():.1%}")
