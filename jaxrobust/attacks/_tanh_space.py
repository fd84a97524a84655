"""Carlini & Wagner's change of variable, and steps of Adam in it.

Images are low + (high - low) (tanh(w) + 1) / 2, so that every w is inside the box.
"""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Bounds, Images
from jaxrobust.attacks._adam import Moments, adam
from jaxrobust.attacks._method import like

# Adam's is 1e-8: at a wall, where a step of w moves the image by 1e-6 of it, gradients
# are smaller than that, and a value that starts there would stay. Large enough for
# squares of what is smaller to vanish.
_FLOOR = 1e-16


def from_images(x: Images, bounds: Bounds) -> Images:
    """Returns w; of values at a wall that of a value just inside."""
    low, high = bounds
    inside = 1 - max(1e-6, float(jnp.finfo(x.dtype).eps))
    return jnp.arctanh(inside * jnp.clip(2 * (x - low) / (high - low) - 1, -1, 1))


def to_images(w: Images, bounds: Bounds) -> tuple[Images, Images]:
    """Returns the images and their derivatives by w."""
    low, high = bounds
    x = jnp.clip(low + (high - low) * (jnp.tanh(w) + 1) / 2, low, high)
    # 1 - tanh^2 of numbers too large for the difference to be rounded to 0.
    slope = 4 * jax.nn.sigmoid(2 * w) * jax.nn.sigmoid(-2 * w)
    return x, (high - low) / 2 * slope


def descend(
    w: Images, grad: Images, moments: Moments, count: jax.Array, lr: float
) -> tuple[Images, Moments]:
    """Makes one step of Adam.

    Args:
      w: where to step from, `[B, ...]`.
      grad: gradient there; what is not finite counts as 0 or as a large number.
      moments: of the steps before.
      count: how many these were, one number or one per row.
      lr: learning rate.
    """
    limit = jnp.finfo(w.dtype).max ** 0.5 / 8  # whose square is finite
    grad = jnp.clip(jnp.nan_to_num(grad), -limit, limit)
    moments, direction = adam(moments, grad, like(count + 1, w), _FLOOR)
    return w - lr * direction, moments
