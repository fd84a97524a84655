"""Snow, frost and fog. See `noise` for the signature."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrobust.array_types import Key
from jaxrobust.corruptions import _linear
from jaxrobust.corruptions._linear import Image, Level, pick

# Mean and standard deviation of the flakes' noise, zoom, threshold, radius and standard
# deviation of their fall in pixels, and what is kept of the image.
SNOW = (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # image, texture
FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))  # strength, decay
# Of the frost texture.
CRYSTAL_LENGTH = 8
CRYSTAL_SHARE = 0.02


def snow(x: Image, key: Key, level: Level) -> Image:
    """Whitens the image and lets flakes fall over it, twice, one way turned round."""
    mean, std, _, threshold, radius, sigma, kept = pick(SNOW, level, x)
    noise_key, angle_key = jax.random.split(key)
    flakes = mean + std * _linear.normal(noise_key, (*x.shape[:2], 1), x)
    rows, columns = (
        pick([_linear.zoom_matrix(size, one[2]) for one in SNOW], level, x)
        for size in x.shape[:2]
    )
    flakes = _linear.separable(flakes, rows, columns)
    flakes = jnp.where(flakes < threshold, 0, jnp.minimum(flakes, 1))
    angle = _linear.uniform(angle_key, (), -3 * np.pi / 4, -np.pi / 4, x)
    flakes = _linear.streak(flakes, angle, radius, sigma, max(one[4] for one in SNOW))
    white = jnp.maximum(x, 1.5 * _linear.grey(x) + 0.5)
    return kept * x + (1 - kept) * white + flakes + flakes[::-1, ::-1]


def fog(x: Image, key: Key, level: Level) -> Image:
    """Adds a plasma fractal and scales back to the brightest value."""
    strength, decay = pick(FOG, level, x)
    brightest = x.max()
    thick = x + strength * plasma(key, x.shape[0], x.shape[1], decay)
    return thick * brightest / (brightest + strength)


def frost(x: Image, key: Key, level: Level) -> Image:
    """Overlays ice. Its texture is procedural: the original's are photographs."""
    kept, ice = pick(FROST, level, x)
    return kept * x + ice * frost_texture(key, x)


def frost_texture(key: Key, x: Image) -> Image:
    """Makes ice: ridges, and needles in three directions where the ice is thick."""
    height, width, channels = x.shape
    ridge_key, thick_key, seed_key, angle_key = jax.random.split(key, 4)
    ridges = plasma(ridge_key, height, width, jnp.asarray(1.5, x.dtype))
    ridges = (1 - jnp.abs(2 * ridges - 1)) ** 3
    thick = plasma(thick_key, height, width, jnp.asarray(1.3, x.dtype))
    seeds = _linear.uniform(seed_key, thick.shape, 0, 1, x) < CRYSTAL_SHARE
    length = jnp.asarray(CRYSTAL_LENGTH, x.dtype)
    angles = _linear.uniform(angle_key, (), 0, np.pi / 3, x) + np.arange(6) * np.pi / 3
    needles = jax.vmap(_linear.streak, (None, 0, None, None, None))(
        seeds.astype(x.dtype), angles, length, length, CRYSTAL_LENGTH
    )
    ice = 0.1 + 0.5 * ridges + 0.3 * thick**2 + 3 * thick * needles.sum(0)
    # Thin ice is blue, thick ice white.
    ice = jnp.clip(ice, 0, 1) ** jnp.asarray([[[1.35, 1.1, 0.9]]], x.dtype)
    return _linear.grey(ice) if channels == 1 else ice


def plasma(
    key: Key, height: int, width: int, decay: Array
) -> Float[Array, "height width 1"]:
    """Returns a height map in [0, 1] by the diamond-square algorithm.

    Each round doubles a periodic grid: middles of squares, then middles of sides, are
    the mean of their four neighbours plus noise. As in the original, the noise falls by
    `decay` squared from one round to the next.
    """
    grid = jnp.zeros((1, 1), decay.dtype)
    rounds = (max(height, width) - 1).bit_length()
    draws = _linear.uniform(key, (4**rounds - 1,), -1, 1, grid)
    for number in range(rounds):
        side = 2**number
        noise = draws[side**2 - 1 : 4 * side**2 - 1].reshape(3, side, side)
        noise = noise * decay ** (-2 * number)
        below = grid + jnp.roll(grid, -1, 0)
        beside = grid + jnp.roll(grid, -1, 1)
        middle = (below + jnp.roll(below, -1, 1)) / 4 + noise[0]
        across = (middle + jnp.roll(middle, 1, 0) + beside) / 4 + noise[1]
        down = (middle + jnp.roll(middle, 1, 1) + below) / 4 + noise[2]
        even, odd = jnp.stack([grid, across], -1), jnp.stack([down, middle], -1)
        grid = jnp.stack([even, odd], 1).reshape(2 * side, 2 * side)
    grid = grid - grid.min()
    return (grid / grid.max())[:height, :width, None]
