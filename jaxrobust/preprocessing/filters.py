"""Changes of images [B, H, W, C], each image and channel by itself."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.array_types import Images

_STEP = 0.25  # of the dual ascent; stable for two dimensions


def median_filter(x: Images, window: int = 3) -> Images:
    """Takes the median of the window around each pixel, mirrored at the border.

    As scipy.ndimage.median_filter: of an even window the upper left pixel of the middle
    four is its centre, and the upper of the two middle values the median.

    Args:
      x: images `[B, H, W, C]`.
      window: side of the square window, in pixels.
    """
    before, after = window // 2, (window - 1) // 2
    pad = (before, after)
    wide = jnp.pad(x, ((0, 0), pad, pad, (0, 0)), mode="symmetric")
    high, across = x.shape[1:3]
    shifted = [
        wide[:, row : row + high, column : column + across]
        for row in range(window)
        for column in range(window)
    ]
    return jnp.sort(jnp.stack(shifted), axis=0)[len(shifted) // 2]


def smoothed(x: Images, weight: float = 0.05, steps: int = 50) -> Images:
    """Finds images near `x` of small total variation.

    They minimise sum |gradient of u| + sum (u - x)^2 / (2 weight), by channel, up to
    the number of steps; large weights give flat images. Mean values stay.

    Args:
      x: images `[B, H, W, C]`.
      weight: of smoothness, in units of the pixel values.
      steps: of the projected dual ascent.

    Reference:
      Rudin, Osher, Fatemi, Physica D 1992; Chambolle, An algorithm for total variation
      minimization, JMIV 2004, equation 9.
    """

    def step(dual: Float[Array, "2 B H W C"], _: None) -> tuple[Array, None]:
        rise = _slopes(_divergence(dual) - x / weight)
        # The root has no gradient at 0, where images are flat.
        square = (rise**2).sum(0, keepdims=True)
        length = jnp.sqrt(square + jnp.finfo(x.dtype).tiny ** 0.5)
        return (dual + _STEP * rise) / (1 + _STEP * length), None

    start = jnp.zeros((2, *x.shape), x.dtype)
    dual, _ = jax.lax.scan(step, start, length=steps)
    return x - weight * _divergence(dual)


def _slopes(u: Images) -> Float[Array, "2 B H W C"]:
    """Forward differences along rows and columns, 0 at the end."""
    down = jnp.pad(jnp.diff(u, axis=1), ((0, 0), (0, 1), (0, 0), (0, 0)))
    right = jnp.pad(jnp.diff(u, axis=2), ((0, 0), (0, 0), (0, 1), (0, 0)))
    return jnp.stack([down, right])


def _divergence(dual: Float[Array, "2 B H W C"]) -> Images:
    """The negative adjoint of `_slopes`."""

    def along(p: Images, axis: int) -> Images:
        inner = jax.lax.slice_in_dim(p, 0, p.shape[axis] - 1, axis=axis)
        ends = [(0, 0)] * 4
        ends[axis] = (1, 1)
        return jnp.diff(jnp.pad(inner, ends), axis=axis)

    return along(dual[0], 1) + along(dual[1], 2)
