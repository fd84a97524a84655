"""Waves over images: the cosine transform of type II, and noise of low frequencies."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.array_types import Images, Key


def cosines(size: int) -> np.ndarray:
    """Returns `size` orthonormal waves over so many values, `[waves, size]`."""
    k, n = np.arange(size)[:, None], np.arange(size)[None]
    waves = np.cos(np.pi * (n + 0.5) * k / size) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return waves


def transformed(x: Images) -> Images:
    """Returns the coefficients of images `[B, H, W, C]` in their own waves."""
    tall, wide = (jnp.asarray(cosines(n), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", tall, wide, x)


def synthesised(coefficients: Images) -> Images:
    """Returns the images of such coefficients."""
    tall, wide = (
        jnp.asarray(cosines(n), coefficients.dtype) for n in coefficients.shape[1:3]
    )
    return jnp.einsum("ih,jw,bijc->bhwc", tall, wide, coefficients)


def low_noise(keys: Key, x: Images, share: float) -> Images:
    """Draws normal coefficients for the lowest waves, with a key per row.

    `share` of the waves of either side; of what is no image all values are drawn.
    """
    draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
    if x.ndim != 4 or share >= 1:
        return draw
    low = [np.arange(n) < max(1, round(share * n)) for n in x.shape[1:3]]
    mask = (low[0][:, None] & low[1][None])[None, :, :, None]
    return synthesised(jnp.where(mask, draw, 0))
