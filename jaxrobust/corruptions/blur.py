"""Blur: defocus, frosted glass, motion and zoom. See `noise` for the signature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.array_types import Key
from jaxrobust.corruptions import _linear
from jaxrobust.corruptions._linear import Image, Level, pick

# Radius of the disc and standard deviation of the blur that softens it, in pixels.
DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))
# Standard deviation of the blurs before and after, in pixels, and rounds of shuffling.
GLASS = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))
MOTION = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, standard deviation
ZOOM_LARGEST = (0.06, 0.11, 0.16, 0.21, 0.26)  # in steps of .01 from 0
REACH = 2  # pixels, of the defocus kernels


def _disc(radius: float, softness: float) -> np.ndarray:
    """Returns a disc of whole pixels under a 3 x 3 Gaussian, 5 x 5, sum 1."""
    at = np.arange(-REACH, REACH + 1)
    disc = (at[:, None] ** 2 + at[None, :] ** 2 <= radius**2).astype(float)
    side = np.exp(-0.5 * (np.arange(-1, 2) / softness) ** 2)
    blur = np.stack([np.convolve(row, side / side.sum(), "same") for row in np.eye(5)])
    kernel = blur.T @ disc @ blur
    return kernel / kernel.sum()


def defocus_blur(x: Image, key: Key, level: Level) -> Image:
    """Averages over a disc, as a lens out of focus does."""
    kernel = pick([_disc(*one) for one in DEFOCUS], level, x)
    padded = jnp.pad(x, ((REACH, REACH), (REACH, REACH), (0, 0)), mode="reflect")
    height, width, _ = x.shape
    parts = (
        kernel[i, j] * padded[i : i + height, j : j + width]
        for i, j in itertools.product(range(2 * REACH + 1), repeat=2)
    )
    return sum(parts, jnp.zeros_like(x))


def glass_blur(x: Image, key: Key, level: Level) -> Image:
    """Blurs, moves pixels to neighbouring places, blurs again.

    The original walks over the pixels from the last to the first and means to swap each
    with one up to a pixel above or left of it; as its arrays are views, the swap only
    copies that pixel here. No pixel that it reads has been written before, so a round
    is one parallel choice among four neighbours: exactly what made CIFAR-10-C.
    """
    sigma, rounds = pick(GLASS, level, x)
    largest = max(one[0] for one in GLASS)
    x = _linear.gaussian_blur(x, sigma, largest, truncate=4, mode="edge")
    first, second = jax.random.split(key)
    x = _shuffle(x, first)
    x = jnp.where(rounds > 1, _shuffle(x, second), x)
    return _linear.gaussian_blur(x, sigma, largest, truncate=4, mode="edge")


def _shuffle(x: Image, key: Key) -> Image:
    """Takes each pixel, but for the first two rows and columns, from up or left."""
    height, width, _ = x.shape
    moves = jax.random.bernoulli(key, 0.5, (2, height, width, 1))
    inside = (np.arange(height)[:, None] > 1) & (np.arange(width)[None, :] > 1)
    up, left = moves & jnp.asarray(inside)[None, :, :, None]
    above = jnp.roll(x, 1, 0)
    still = jnp.where(left, jnp.roll(x, 1, 1), x)
    return jnp.where(up, jnp.where(left, jnp.roll(above, 1, 1), above), still)


def motion_blur(x: Image, key: Key, level: Level) -> Image:
    """Blurs along a direction within 45 degrees of the horizontal."""
    radius, sigma = pick(MOTION, level, x)
    angle = _linear.uniform(key, (), -np.pi / 4, np.pi / 4, x)
    return _linear.streak(x, angle, radius, sigma, max(one[0] for one in MOTION))


def zoom_blur(x: Image, key: Key, level: Level) -> Image:
    """Averages the image and its enlargements up to a factor, as a lens zooming in."""
    # arange keeps the original's rounding: its end is sometimes included.
    factors = [np.arange(1, 1 + most, 0.01) for most in ZOOM_LARGEST]
    every = max(factors, key=len)
    weights = [[i < len(one) for i in range(len(every))] for one in factors]
    rows, columns = (
        jnp.asarray(np.stack([_linear.zoom_matrix(size, f) for f in every]), x.dtype)
        for size in x.shape[:2]
    )
    weight = pick(weights, level, x)

    def add(total: Image, one: tuple) -> tuple[Image, None]:
        rows, columns, weight = one
        return total + weight * _linear.separable(x, rows, columns), None

    total, _ = jax.lax.scan(add, x, (rows, columns, weight))
    return total / (weight.sum() + 1)
