"""Noise: Gaussian, shot (photons) and impulse (salt and pepper).

As all corruptions: `f(x [H, W, C] in [0, 1], key, level) -> [H, W, C]`, `level` the
severity minus 1; values may leave [0, 1], which `apply` clips. Some draw nothing from
the key.
"""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Key
from jaxrobust.corruptions._linear import Image, Level, normal, pick

GAUSSIAN_STD = (0.04, 0.06, 0.08, 0.09, 0.10)
PHOTONS = (500, 250, 100, 75, 50)
IMPULSE_SHARE = (0.01, 0.02, 0.03, 0.05, 0.07)


def gaussian_noise(x: Image, key: Key, level: Level) -> Image:
    """Adds normal noise, independent per value."""
    return x + pick(GAUSSIAN_STD, level, x) * normal(key, x.shape, x)


def shot_noise(x: Image, key: Key, level: Level) -> Image:
    """Draws each value as a Poisson count of photons, fewer at higher severity."""
    photons = pick(PHOTONS, level, x)
    return jax.random.poisson(key, x * photons).astype(x.dtype) / photons


def impulse_noise(x: Image, key: Key, level: Level) -> Image:
    """Sets a share of the values to 0 or 1, one as likely as the other."""
    share = pick(IMPULSE_SHARE, level, x)
    chance = jax.random.uniform(key, x.shape).astype(x.dtype)
    return jnp.where(chance < share, (chance < share / 2).astype(x.dtype), x)
