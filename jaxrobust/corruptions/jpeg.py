"""JPEG compression: what baseline encoding and decoding lose. See `noise`.

Colours to Y, Cb, Cr; chroma at half the resolution; 8 x 8 cosine transforms, quantised
by the tables of ITU-T T.81 annex K; and back, chroma enlarged as libjpeg does. Its
transforms are of whole numbers, these are exact: single values may differ by some
levels of 255, see `preprocessing.jpeg`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrobust.array_types import Images, Key
from jaxrobust.corruptions._linear import HIGHEST, Image, Level, pick, separable

QUALITY = (80, 65, 58, 50, 40)
LUMINANCE = """
    16 11 10 16  24  40  51  61
    12 12 14 19  26  58  60  55
    14 13 16 24  40  57  69  56
    14 17 22 29  51  87  80  62
    18 22 37 56  68 109 103  77
    24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101
    72 92 95 98 112 100 103  99
"""
CHROMINANCE = """
    17 18 24 47 99 99 99 99
    18 21 26 66 99 99 99 99
    24 26 56 99 99 99 99 99
    47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99
"""
# JFIF: R, G, B in [0, 255] to Y, Cb, Cr, the last two around 0.
TO_YCC = np.asarray(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)


def jpeg_compression(x: Image, key: Key, level: Level) -> Image:
    """Rounds to 8-bit levels, encodes as JPEG and decodes; grey has no chroma."""
    tables = (
        [_steps(table, quality) for quality in QUALITY]
        for table in (LUMINANCE, CHROMINANCE)
    )
    return _lossy(x, *(pick(table, level, x) for table in tables))


def compressed(x: Images, quality: int) -> Images:
    """Encodes images in [0, 1] as JPEG at a quality from 1 to 100, and decodes them."""
    # Half precision cannot hold sums of levels.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    tables = [_steps(table, quality) for table in (LUMINANCE, CHROMINANCE)]
    light, color = (jnp.asarray(table, wide.dtype) for table in tables)
    return jax.vmap(lambda image: _lossy(image, light, color))(wide).astype(x.dtype)


def _lossy(x: Image, light: Float[Array, "8 8"], color: Float[Array, "8 8"]) -> Image:
    levels = jnp.round(255 * x)
    if x.shape[-1] == 1:
        return _code(levels - 128, light) / 255 + 128 / 255
    turn = jnp.asarray(TO_YCC.T, x.dtype)
    ycc = jnp.round(jnp.matmul(levels, turn, precision=HIGHEST))
    luma = _code(ycc[..., :1] - 128, light) + 128
    small = _code(_halve(ycc[..., 1:]), color)[:, : (x.shape[1] + 1) // 2]
    chroma = _enlarge(small, *x.shape[:2])
    decoded = jnp.concatenate([luma, jnp.round(chroma)], -1)
    back = jnp.asarray(np.linalg.inv(TO_YCC).T, x.dtype)
    return jnp.clip(jnp.round(jnp.matmul(decoded, back, precision=HIGHEST)) / 255, 0, 1)


def _steps(table: str, quality: int) -> Float[np.ndarray, "8 8"]:
    """Returns a quantisation table at a quality from 1 to 100, as libjpeg scales it."""
    base = np.asarray(table.split(), int).reshape(8, 8)
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((base * percent + 50) // 100, 1, 255).astype(float)


def _code(x: Image, steps: Float[Array, "8 8"]) -> Image:
    """Quantises the cosine transform of each 8 x 8 block of values around 0."""
    height, width, channels = x.shape
    x = jnp.pad(x, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    blocks = x.reshape(x.shape[0] // 8, 8, x.shape[1] // 8, 8, channels)
    frequency, place = np.arange(8)[:, None], np.arange(8)[None, :]
    waves = np.cos(np.pi * frequency * (2 * place + 1) / 16) / 2
    waves[0] /= np.sqrt(2)
    waves = jnp.asarray(waves, x.dtype)
    both = waves, waves
    found = jnp.einsum("ui,vj,hiwjc->huwvc", *both, blocks, precision=HIGHEST)
    steps = steps[None, :, None, :, None]
    found = jnp.round(found / steps) * steps
    blocks = jnp.einsum("ui,vj,huwvc->hiwjc", *both, found, precision=HIGHEST)
    return jnp.clip(jnp.round(blocks.reshape(x.shape)), -128, 127)[:height, :width]


def _halve(x: Image) -> Image:
    """Averages 2 x 2 pixels; halves round down and up in turn, as in libjpeg.

    Pixels to the right of the border, up to whole blocks, are its copies at full size.
    """
    x = jnp.pad(x, ((0, x.shape[0] % 2), (0, -x.shape[1] % 16), (0, 0)), mode="edge")
    sums = x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]
    bias = 1 + np.arange(sums.shape[1]) % 2
    return jnp.floor((sums + jnp.asarray(bias, x.dtype)[None, :, None]) / 4)


def _enlarge(x: Image, height: int, width: int) -> Image:
    """Doubles the size with weights 3/4 and 1/4 of the nearest two per axis."""

    def matrix(small: int, size: int) -> Array:
        near = np.repeat(np.arange(small), 2)
        far = np.clip(near + np.tile([-1, 1], small), 0, small - 1)
        double = 0.75 * np.eye(small)[near] + 0.25 * np.eye(small)[far]
        return jnp.asarray(double[:size], x.dtype)

    return separable(x, *map(matrix, x.shape[:2], (height, width)))
