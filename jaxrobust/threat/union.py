"""Several balls at once: a point that lies in one of them is allowed."""

from collections.abc import Mapping

import jax.numpy as jnp

from jaxrobust.array_types import Images, Norm, PerExample
from jaxrobust.threat import _ball


def distance(
    x_adv: Images, x: Images, radii: Mapping[Norm, _ball.Radius]
) -> PerExample:
    """Returns the least size in radii, `[B]`: at most 1 is in one of the balls.

    Args:
      x_adv: points `[B, ...]`.
      x: centres `[B, ...]`.
      radii: of each norm, above 0, a number or `[B]`.
    """
    each = [
        _ball.distance(x_adv, x, norm=norm) / jnp.asarray(eps)
        for norm, eps in radii.items()
    ]
    return jnp.min(jnp.stack(each), axis=0)
