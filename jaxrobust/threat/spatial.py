"""Images that are moved: rotated and shifted as a whole, or pixel by pixel (a flow).

Pixels are looked up between four others (bilinear); beyond the image all is `fill`.
The parameters of both are boxes around 0, in which nothing moves, so `threat.project`,
`sample` and `distance` in Linf are those of these threats too.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxrobust.array_types import Images, PerExample

Poses = Float[Array, "B 3"]  # degrees, rows, columns
Flows = Float[Array, "B H W 2"]  # rows, columns


def rotate_translate(x: Images, pose: Poses, *, fill: float = 0.0) -> Images:
    """Rotates images about their centres, then shifts them.

    Args:
      x: images `[B, H, W, C]`.
      pose: `[B, 3]`: degrees counterclockwise (90 is `jnp.rot90`), and by how many
        pixels the image moves down and to the right.
      fill: value of what was outside of the image.
    """
    height, width = x.shape[1:3]
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], x.dtype)[:, None, None]
    grid = _grid(x) - centre

    def where(one: Float[Array, "3"]) -> Float[Array, "2 H W"]:
        angle = one[0] * (jnp.pi / 180)
        down, right = grid - one[1:, None, None]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([cos * down + sin * right, cos * right - sin * down]) + centre

    return _look_up(x, jax.vmap(where)(pose.astype(x.dtype)), fill)


def flow(x: Images, field: Flows, *, fill: float = 0.0) -> Images:
    """Moves pixels: each is looked up so many rows below and columns to the right.

    Args:
      x: images `[B, H, W, C]`.
      field: `[B, H, W, 2]`, in pixels.
      fill: value of what was outside of the image.

    Reference:
      Xiao et al., Spatially transformed adversarial examples, ICLR 2018, arXiv
      1801.02612, equation 1.
    """
    field = jnp.moveaxis(field.astype(x.dtype), 3, 1)
    return _look_up(x, _grid(x)[None] + field, fill)


def roughness(field: Flows) -> PerExample:
    """Sums, over pixels and neighbours, how much the flow differs, `[B]`.

    The flow loss of Xiao et al. 2018, equation 4; each pair of neighbours counts twice.
    """
    total = jnp.zeros(field.shape[0], field.dtype)
    for axis in (1, 2):
        squared = jnp.sum(jnp.diff(field, axis=axis) ** 2, axis=3)
        # Where neighbours move alike the root has no slope.
        safe = jnp.where(squared > 0, squared, 1)
        length = jnp.where(squared > 0, jnp.sqrt(safe), 0)
        total = total + 2 * jnp.sum(length, axis=(1, 2))
    return total


def smoothed(field: Flows, deviation: float) -> Flows:
    """Replaces a flow by Gaussian means over rows and columns, which are no larger.

    At the edges the means are over the pixels that there are.

    Args:
      field: `[B, H, W, 2]`.
      deviation: of the Gaussian in pixels; 0 changes nothing.
    """

    def weights(size: int) -> Float[Array, "N N"]:
        place = jnp.arange(size, dtype=field.dtype)
        squares = (place[:, None] - place[None]) ** 2
        # Where the deviation vanishes, all but the own pixel do.
        width = jnp.maximum(jnp.asarray(deviation, field.dtype), 1e-3)
        return jax.nn.softmax(-squares / (2 * width**2), axis=1)

    rows, columns = (weights(n) for n in field.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, field)


def _grid(x: Images) -> Float[Array, "2 H W"]:
    rows, columns = (jnp.arange(n, dtype=x.dtype) for n in x.shape[1:3])
    return jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"))


def _look_up(x: Images, at: Float[Array, "B 2 H W"], fill: float) -> Images:
    def one(channel: Float[Array, "H W"], at: Float[Array, "2 H W"]) -> jax.Array:
        return map_coordinates(channel, list(at), order=1, cval=fill)

    of_image = jax.vmap(one, (2, None), 2)
    return jax.vmap(of_image)(x, at)
