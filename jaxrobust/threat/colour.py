"""Images that are recoloured: one function of colours for all pixels of an image."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxrobust.array_types import Bounds, Images

# By how much each colour changes, at a grid of colours: [B, n, ..., n, C] of C times n.
Tables = Float[Array, "B ..."]


def recolor(x: Images, table: Tables, *, bounds: Bounds = (0.0, 1.0)) -> Images:
    """Adds to each pixel what a table says of its colour, linear between entries.

    Pixels of one colour stay of one colour. A table of zeros changes nothing, so
    `threat.project`, `sample` and `distance` in Linf are those of this threat too.

    Args:
      x: images `[B, H, W, C]`, in `bounds`.
      table: `[B, n, ..., n, C]`, with C axes of n colours each, from the lower to the
        upper bound, in units of the images.
      bounds: lowest and highest value of an image; the result is cut to them.

    Reference:
      Laidlaw and Feizi, Functional adversarial attacks, NeurIPS 2019, arXiv 1906.00001,
      section 3; here in the channels of the image, not CIELUV.
    """
    low, high = bounds
    at = (x - low) * ((table.shape[1] - 1) / (high - low))

    def one(entries: jax.Array, at: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        places = list(jnp.moveaxis(at, 2, 0))
        look = lambda t: map_coordinates(t, places, order=1, mode="nearest")  # noqa: E731
        return jax.vmap(look, -1, -1)(entries)

    return jnp.clip(x + jax.vmap(one)(table.astype(x.dtype), at), low, high)
