"""Adam with a count per row or value, which optax's counts for all at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Images, PerExample
from jaxrobust.attacks._method import like

_BETA1, _BETA2 = 0.9, 0.999


class Moments(NamedTuple):
    """Running means of the gradient and of its square."""

    first: Images
    second: Images


def at_rest(x: Images) -> Moments:
    """Returns those before the first gradient."""
    return Moments(jnp.zeros_like(x), jnp.zeros_like(x))


def adam(
    before: Moments, grad: Images, count: Images | PerExample, floor: float = 1e-8
) -> tuple[Moments, Images]:
    """Takes in a gradient; returns the direction of a step of length 1 per value.

    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, algorithm 1.

    Args:
      before: the means so far.
      grad: of the shape of the means, its squares finite.
      count: gradients taken in, this one included, at least 1; broadcasts to them.
      floor: added to the root of the square.
    """
    first = _BETA1 * before.first + (1 - _BETA1) * grad
    second = _BETA2 * before.second + (1 - _BETA2) * grad * grad
    count = jnp.asarray(count, grad.dtype)
    mean = first / (1 - _BETA1**count)
    square = second / (1 - _BETA2**count)
    return Moments(first, second), mean / (jnp.sqrt(square) + floor)


def where(rows: jax.Array, new: Moments, old: Moments) -> Moments:
    """Chooses moments per row."""
    return jax.tree.map(lambda a, b: jnp.where(like(rows, a), a, b), new, old)
