"""Gradients from differences of the objective, and Adam's step along them."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxrobust.array_types import Images, Key, PerExample
from jaxrobust.attacks._objective import Problem, evaluate

_BETA1, _BETA2, _SMALL = 0.9, 0.999, 1e-8


class Moments(NamedTuple):
    """Adam's running means of the gradient and of its square."""

    first: Images
    second: Images


def moments(x: Images) -> Moments:
    """Returns those before the first gradient."""
    return Moments(jnp.zeros_like(x), jnp.zeros_like(x))


def adam(
    before: Moments, grad: Images, count: Images | PerExample
) -> tuple[Moments, Images]:
    """Takes in a gradient; returns the direction of a step of length 1 per pixel.

    Args:
      before: the means so far.
      grad: of the shape of the means.
      count: gradients taken in, this one included, at least 1; broadcasts to them.
    """
    first = _BETA1 * before.first + (1 - _BETA1) * grad
    second = _BETA2 * before.second + (1 - _BETA2) * grad * grad
    count = jnp.asarray(count, grad.dtype)
    mean = first / (1 - _BETA1**count)
    square = second / (1 - _BETA2**count)
    return Moments(first, second), mean / (jnp.sqrt(square) + _SMALL)


def slope(
    problem: Problem, x: Images, shift: Images, length: float, keys: Key | None
) -> PerExample:
    """Returns the objective's symmetric difference quotient at `x`, `[B]`.

    Both points see one randomness of the model. What is not finite counts as flat.

    Args:
      problem: whose objective is taken.
      x: images `[B, ...]`.
      shift: from `x` to the point ahead; the one behind is as far.
      length: of the shift, in the unit of the quotient.
      keys: of a stochastic model.
    """
    ahead, behind = (evaluate(problem, x + s, keys).value for s in (shift, -shift))
    quotient = (ahead - behind) / (2 * length)
    limit = jnp.sqrt(jnp.finfo(x.dtype).max) / 8  # whose square is finite
    return jnp.clip(jnp.nan_to_num(quotient), -limit, limit).astype(x.dtype)
