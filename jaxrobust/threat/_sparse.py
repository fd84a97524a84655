"""Sparse threats: the number of values, or of pixels, that change.

A group is what counts as one: a value in 'l0', all channels of a pixel in 'l0_pixels'
(the last axis of images `[B, H, W, C]`; of rows `[B, d]` each value is a pixel).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrobust._shards import varied_alike
from jaxrobust.array_types import Bounds, Images, Key, Norm, PerExample


def grouped(values: Array, norm: Norm) -> Array:
    """Returns images as groups of values, `[B, groups, values]`."""
    channels = values.shape[-1] if norm == "l0_pixels" and values.ndim > 2 else 1
    return values.reshape(values.shape[0], -1, channels)


def changed(delta: Images, norm: Norm) -> PerExample:
    """Counts the groups that are not all 0, `[B]`."""
    return jnp.sum(jnp.any(grouped(delta, norm) != 0, axis=2), axis=1).astype(
        delta.dtype
    )


def largest(scores: Float[Array, "B n"], count: Array) -> Bool[Array, "B n"]:
    """Marks the `count` (a number, or one per row) largest of each row, first at ties.

    `count` is at least 0 and is rounded down; NaN is below all numbers. The smallest of
    them is found bit by bit: on a CPU far quicker than a sort.
    """
    bits = jnp.finfo(scores.dtype).bits
    whole: Any = jnp.dtype(f"int{bits}")
    lowest = jnp.iinfo(whole).min
    value = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0, scores), whole)
    # Whole numbers of the same order: those of negative numbers run the other way.
    value = jnp.where(value < 0, value ^ jnp.iinfo(whole).max, value)
    value = jnp.where(jnp.isnan(scores), lowest, value)
    wanted = jnp.broadcast_to(jnp.floor(count).reshape(-1, 1), (len(scores), 1))

    def body(i: jax.Array, found: jax.Array) -> jax.Array:
        trial = found + jnp.left_shift(jnp.ones_like(found), bits - 1 - i)
        enough = jnp.sum(value >= trial, axis=1, keepdims=True) >= wanted
        return jnp.where(enough, trial, found)

    smallest = varied_alike((jnp.full(wanted.shape, lowest, whole), value, wanted))[0]
    smallest = jax.lax.fori_loop(0, bits, body, smallest)
    above, ties = value > smallest, value == smallest
    left = wanted - jnp.sum(above, axis=1, keepdims=True)
    return above | (ties & (jnp.cumsum(ties, axis=1) <= left))


def project(
    delta: Images, x: Images, radius: Float[Array, "..."], norm: Norm, bounds: Bounds
) -> Images:
    """Nearest change (Euclidean) of at most `radius` groups that stays in the box.

    Those groups are left whose change, cut to the box, brings the point nearest: as
    d^2 - (d - c)^2 = c (2d - c) of a change d that is cut to c (Croce & Hein 2019,
    section 4.1).
    """
    low, high = bounds
    inside = jnp.clip(delta, low - x, high - x)
    gain = jnp.sum(grouped(inside * (2 * delta - inside), norm), axis=2)
    kept = largest(gain, radius)[:, :, None]
    return jnp.where(kept, grouped(inside, norm), 0).reshape(delta.shape)


def sample(
    x: Images, keys: Key, radius: Float[Array, "..."], norm: Norm, bounds: Bounds
) -> Images:
    """Draws `radius` groups, any of them as likely, and values of the box for them."""

    def draw(key: Key, shape: tuple[int, ...], low: float, high: float) -> Array:
        return jax.random.uniform(key, shape, x.dtype, low, high)

    split = jax.vmap(jax.random.split)(keys)
    count = grouped(x, norm).shape[1]
    order = jax.vmap(lambda k: draw(k, (count,), 0.0, 1.0))(split[:, 0])
    values = jax.vmap(lambda k: draw(k, x.shape[1:], *bounds))(split[:, 1])
    chosen = largest(order, radius)[:, :, None]
    new = jnp.where(chosen, grouped(values, norm), grouped(x, norm))
    return new.reshape(x.shape)
