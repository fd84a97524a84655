"""Rounding attacked images to the 8-bit levels of the box, inside the ball."""

import jax.numpy as jnp
import numpy as np

from jaxrobust import threat
from jaxrobust.array_types import Bounds, Images, Norm, Scalar

_LEVELS = 255


def to_levels(
    x_adv: Images, x: Images, *, eps: Scalar, norm: Norm, bounds: Bounds
) -> Images:
    """Moves points of ball and box to 8-bit levels that are in ball and box too.

    Linf: the nearest level within the ball. L2, L1: the next level towards `x`. Where
    no level qualifies (`x` is off the grid, eps is tiny) the clean value stays.
    """
    low, high = bounds
    width = high - low
    # A table, since XLA may turn a division by 255 into a multiplication.
    eps = threat.per_row(eps, x)
    table = jnp.asarray(np.arange(_LEVELS + 1) / _LEVELS * width + low, x.dtype)

    def level(v: Images) -> Images:
        return (v - low) / width * _LEVELS

    if norm == "linf":
        # Half of the slack that the contract of threat.project leaves to rounding.
        slack = 0.5e-6 * max(1.0, width) / width * _LEVELS
        first = jnp.ceil(level(jnp.maximum(x - eps, low)) - slack)
        last = jnp.floor(level(jnp.minimum(x + eps, high)) + slack)
        index = jnp.clip(jnp.round(level(x_adv)), first, last)
        allowed = first <= last
    else:
        above = x_adv > x
        index = jnp.where(above, jnp.floor(level(x_adv)), jnp.ceil(level(x_adv)))
        allowed = x_adv != x
    index = jnp.clip(index, 0, _LEVELS).astype(jnp.int32)
    value = jnp.take(table, index)
    if norm != "linf":
        between = jnp.where(x_adv > x, value > x, value < x)
        allowed &= between & (jnp.abs(value - x) <= jnp.abs(x_adv - x))
    # A radius of 0, as in masks, is to change nothing, not even the last digit.
    return jnp.where(allowed & (eps > 0), value, x)
