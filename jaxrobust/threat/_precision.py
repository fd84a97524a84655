"""Numbers of limited precision: half precision, long sums, divisions by nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.array_types import Images, PerExample


def wide_dtype(dtype: Any) -> jnp.dtype:
    """Returns the dtype to compute in: float32 for half precision, else the same."""
    return jnp.promote_types(dtype, jnp.float32)


def widened(*images: Images) -> list[Images]:
    """Returns arrays in the dtype to compute in."""
    return [v.astype(wide_dtype(v.dtype)) for v in images]


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


def pairwise_sum(rows: Float[Array, "B d"]) -> PerExample:
    """Sums rows in groups of 16, then the groups: the error grows with log d, not d."""
    group = 16
    while (size := rows.shape[1]) > group:
        rows = jnp.pad(rows, ((0, 0), (0, -size % group)))
        rows = jnp.sum(rows.reshape(rows.shape[0], -1, group), axis=2)
    return jnp.sum(rows, axis=1)


def tamed(values: Array, *, squared: bool = False) -> Array:
    """Values with 0 for NaN, none so large that a sum of a few (squares) overflows."""
    limit = jnp.finfo(values.dtype).max ** (0.5 if squared else 1) / 8
    return jnp.clip(jnp.nan_to_num(values), -limit, limit)


def safe_divide(values: Array, length: Array) -> Array:
    """Values over a length of at least 0; where that is 0, as they are."""
    return values / jnp.where(length > 0, length, 1)


def largest_where(
    holds: Callable[[PerExample], jax.Array], like: PerExample
) -> PerExample:
    """Returns the largest number of at least 0 at which a condition holds, per row.

    Found bit by bit, since numbers of at least 0 are ordered as their bits are: on a
    CPU far quicker than a sort. `holds` tells of `[B]` numbers whether they are below
    it, as the condition must hold up to some number of at least 0 and nowhere beyond;
    the result has the type of `like`, `[B]` and floating.
    """
    count = jnp.finfo(like.dtype).bits
    bits = jnp.zeros_like(like, jnp.dtype(f"int{count}"))

    def body(i: jax.Array, found: jax.Array) -> jax.Array:
        trial = found | jnp.left_shift(jnp.ones_like(found), count - 2 - i)
        number = jax.lax.bitcast_convert_type(trial, like.dtype)
        return jnp.where(jnp.isfinite(number) & holds(number), trial, found)

    found = jax.lax.fori_loop(0, count - 1, body, bits)
    number = jax.lax.bitcast_convert_type(found, like.dtype)
    # Comparisons take the smallest numbers for 0, so one of them may come out for it.
    return jnp.where(number < jnp.finfo(like.dtype).tiny, 0, number)
