"""Half precision: computed in float32, and rounded so that no ball is left."""

from typing import Any

import jax.numpy as jnp

from jaxrobust.array_types import Images


def wide_dtype(dtype: Any) -> jnp.dtype:
    """Returns the dtype to compute in: float32 for half precision, else the same."""
    return jnp.promote_types(dtype, jnp.float32)


def towards(point: Images, x: Images) -> Images:
    """Rounds points to the dtype of `x`, each value no further from `x` than it was.

    `bfloat16` has 8 digits of a number in base 2: the nearest one may lie outside the
    ball of 8/255. One towards `x` is inside of every ball, and of the box.
    """
    if point.dtype == x.dtype:
        return point
    near = point.astype(x.dtype)
    clean = x.astype(point.dtype)
    over = jnp.abs(near.astype(point.dtype) - clean) > jnp.abs(point - clean)
    return jnp.where(over, jnp.nextafter(near, x), near)
