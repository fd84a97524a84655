"""Resampling and blurring as products with small matrices, one per axis.

A matrix is chosen by the (traced) severity, so all severities share one program, and a
product is fast everywhere, where windows inside loops are not on CPU.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Image = Float[Array, "H W C"]
Level = Int[Array, ""]
HIGHEST = jax.lax.Precision.HIGHEST


def pick(table: Sequence[Any] | np.ndarray, level: Level, like: Array) -> Array:
    """Returns the entry of a table for a severity, in the dtype of `like`."""
    return jnp.asarray(np.asarray(table), like.dtype)[level]


def separable(x: Image, rows: Array, columns: Array) -> Image:
    """Multiplies the rows [H', H] and columns [W', W] of an image by a matrix each."""
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, x, precision=HIGHEST)


def gaussian_blur(
    x: Image,
    sigma: Array,
    largest: float,
    *,
    truncate: float,
    mode: Literal["edge", "symmetric"],
) -> Image:
    """Blurs with a Gaussian that is cut at whole pixels, as scipy.ndimage does.

    `sigma`, in pixels, may be traced, and gets no larger than `largest`; the window's
    radius is `truncate` sigma, rounded; `mode` says how the image goes on outside.
    """
    matrix = functools.partial(_gaussian_matrix, sigma, largest, truncate, mode)
    return separable(x, *map(matrix, x.shape[:2]))


def _gaussian_matrix(
    sigma: Array, largest: float, truncate: float, mode: Any, size: int
) -> Float[Array, "size size"]:
    radius = int(truncate * largest + 0.5)
    offsets = np.arange(-radius, radius + 1)
    inside = jnp.abs(offsets) <= jnp.floor(truncate * sigma + 0.5)
    safe = jnp.maximum(sigma, 1e-3)
    weights = jnp.exp(-0.5 * (offsets.astype(sigma.dtype) / safe) ** 2) * inside
    weights = weights / weights.sum()
    # Row i of `taken` holds the pixels that the window around pixel i sees.
    outside = np.pad(np.arange(size), radius, mode=mode)
    taken = np.arange(size)[:, None] + np.arange(2 * radius + 1)[None, :]
    one_hot = jnp.asarray(np.eye(size)[outside[taken]], sigma.dtype)
    return jnp.einsum("kds,d->ks", one_hot, weights, precision=HIGHEST)


def zoom_matrix(size: int, factor: float) -> Float[np.ndarray, "size size"]:
    """Enlarges the middle of an axis by a factor >= 1, linearly, to the same size.

    The middle ceil(size / factor) pixels go to round(that * factor), whose middle is
    taken: whole pixels, as in the original's use of scipy.ndimage.zoom.
    """
    crop = int(np.ceil(size / factor))
    whole = round(crop * factor)
    place = np.arange(whole) * (crop - 1) / max(whole - 1, 1)
    place = place[(whole - size) // 2 :][:size] + (size - crop) // 2
    # Linear interpolation: weights fall with the distance, to 0 at the next pixel.
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size)[None, :]))


def streak(x: Image, angle: Array, radius: Array, sigma: Array, longest: int) -> Image:
    """Blurs to one side along a direction, as ImageMagick's motion blur.

    Taps 0 to 2 `radius` lie along the direction, rounded to pixels, weighted by half a
    Gaussian; the border pixels go on outside. The angle, in radians, is from the
    columns' axis towards growing rows; no radius is larger than `longest`.
    """
    taps = jnp.arange(2 * longest + 1)
    along = taps.astype(x.dtype)
    weights = jnp.exp(-0.5 * (along / sigma) ** 2) * (along <= 2 * radius)
    weights = weights / weights.sum()
    border = 2 * longest
    rows, columns = (
        jnp.ceil(along * part - 0.5).astype(jnp.int32) + border
        for part in (jnp.sin(angle), jnp.cos(angle))
    )
    padded = jnp.pad(x, ((border, border), (border, border), (0, 0)), mode="edge")

    def add(total: Image, tap: Any) -> tuple[Image, None]:
        row, column, weight = tap
        start = (row, column, jnp.zeros_like(row))
        return total + weight * jax.lax.dynamic_slice(padded, start, x.shape), None

    return jax.lax.scan(add, jnp.zeros_like(x), (rows, columns, weights))[0]


def grey(x: Image) -> Float[Array, "H W 1"]:
    """Returns the luma (ITU-R BT.601) of an image."""
    if x.shape[-1] == 1:
        return x
    return (x * jnp.asarray([[[0.299, 0.587, 0.114]]], x.dtype)).sum(-1, keepdims=True)


def uniform(
    key: Any, shape: tuple[int, ...], low: Any, high: Any, like: Array
) -> Array:
    """Draws uniformly, in float32 always: a float64 run chooses alike."""
    return low + (high - low) * jax.random.uniform(key, shape).astype(like.dtype)


def normal(key: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Draws standard normal numbers, in float32 always."""
    return jax.random.normal(key, shape).astype(like.dtype)
