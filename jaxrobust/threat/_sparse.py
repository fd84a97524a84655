"""Sparse threats: the number of values, or of pixels, that change.

A group is what counts as one: a value in 'l0', all channels of a pixel in 'l0_pixels'
(the last axis of images `[B, H, W, C]`; of rows `[B, d]` each value is a pixel).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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

    `count` is at least 0 and is rounded down.
    """
    place = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    _, order = jax.lax.sort((-scores, place), num_keys=1)
    _, rank = jax.lax.sort((order, place), num_keys=1)
    return rank < jnp.floor(count).reshape(-1, 1)


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
