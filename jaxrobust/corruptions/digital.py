"""Brightness, contrast, elastic distortion, pixels. See `noise` for the signature."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrobust.array_types import Key
from jaxrobust.corruptions import _linear
from jaxrobust.corruptions._linear import Image, Level, pick

BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)
CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
# Shares of the image's side: strength and standard deviation of the displacements, and
# reach of the affine map's corners.
ELASTIC = (
    (0.0, 0.0, 0.08),
    (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06),
    (0.1, 0.04, 0.05),
    (0.1, 0.03, 0.03),
)
PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)  # the small side over the image's


def brightness(x: Image, key: Key, level: Level) -> Image:
    """Raises the value of HSV; hue and saturation stay."""
    value = x.max(-1, keepdims=True)
    raised = jnp.minimum(value + pick(BRIGHTNESS, level, x), 1)
    # Black has no saturation and becomes grey.
    return jnp.where(value > 0, x * (raised / jnp.where(value > 0, value, 1)), raised)


def contrast(x: Image, key: Key, level: Level) -> Image:
    """Pulls each channel towards its mean."""
    mean = x.mean((0, 1), keepdims=True)
    return mean + pick(CONTRAST, level, x) * (x - mean)


def pixelate(x: Image, key: Key, level: Level) -> Image:
    """Shrinks by box means and enlarges again without interpolation."""

    def matrix(size: int) -> Array:
        return pick([_pixels(size, share) for share in PIXELATE], level, x)

    return _linear.separable(x, *map(matrix, x.shape[:2]))


def _pixels(size: int, share: float) -> Float[np.ndarray, "size size"]:
    """Means over boxes of whole pixels, as Pillow's BOX filter, and back."""
    small = int(size * share)
    scale = size / small
    centre = (np.arange(small)[:, None] + 0.5) * scale
    distance = (np.arange(size)[None, :] + 0.5 - centre) / scale
    inside = (distance > -0.5) & (distance <= 0.5)
    back = ((np.arange(size) + 0.5) * small / size).astype(int)
    return (inside / inside.sum(1, keepdims=True))[back]


def elastic_transform(x: Image, key: Key, level: Level) -> Image:
    """Moves three points of the image at random, then every pixel a little.

    Lengths grow with the smaller side, as in the original.
    """
    height, width, _ = x.shape
    side = min(height, width)
    strength, sigma, reach = pick(ELASTIC, level, x) * side
    corner_key, field_key = jax.random.split(key)
    rows, columns = jnp.mgrid[:height, :width].astype(x.dtype)
    x = _sample(x, *_affine(corner_key, rows, columns, reach), mode="mirror")
    largest = side * max(one[1] for one in ELASTIC)
    field = _linear.uniform(field_key, (height, width, 2), -1, 1, x)
    field = _linear.gaussian_blur(field, sigma, largest, truncate=3, mode="symmetric")
    down, right = strength * field[..., 0], strength * field[..., 1]
    return _sample(x, rows + down, columns + right, mode="reflect")


def _affine(key: Key, rows: Array, columns: Array, reach: Array) -> list[Array]:
    """Returns where the pixels come from under a map that moves three corners."""
    height, width = rows.shape
    middle, arm = np.asarray([height // 2, width // 2]), min(height, width) // 3
    corners = middle + arm * np.asarray([[1, 1], [1, -1], [-1, -1]])
    moved = jnp.asarray(corners, rows.dtype)
    moved = moved + _linear.uniform(key, (3, 2), -reach, reach, rows)
    # The map is linear around the second corner, along the sides from it.
    old, new = (jnp.stack([p[0] - p[1], p[2] - p[1]], -1) for p in (corners, moved))
    (a, b), (c, d) = new
    scale = jnp.where(jnp.abs(a * d - b * c) > 1e-3, a * d - b * c, 1e-3)
    back = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])]) / scale
    back = jnp.matmul(jnp.asarray(old, rows.dtype), back, precision=_linear.HIGHEST)
    down, right = rows - moved[1, 0], columns - moved[1, 1]
    return [back[i, 0] * down + back[i, 1] * right + corners[1, i] for i in range(2)]


def _sample(x: Image, rows: Array, columns: Array, mode: str) -> Image:
    def sample(channel: Array) -> Array:
        place = [rows, columns]
        return jax.scipy.ndimage.map_coordinates(channel, place, order=1, mode=mode)

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(x)
