"""Images that are recoloured: what happens to a colour is the same for all pixels."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxrobust.array_types import Bounds, Images

# By how much each colour changes, at a grid of colours: [B, n, ..., n, C] of C times n.
Tables = Float[Array, "B ..."]
Shifts = Float[Array, "B 3"]  # of hue (a share of the circle), saturation, value


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


def shift_hsv(x: Images, shifts: Shifts, *, bounds: Bounds = (0.0, 1.0)) -> Images:
    """Turns the hue of images, and shifts their saturation and value.

    Saturation and value are cut to [0, 1]. Grey pixels have no hue and stay grey.

    Args:
      x: images `[B, H, W, 3]`, red, green and blue in `bounds`.
      shifts: `[B, 3]`, added to each pixel's hue (1 is the whole circle), saturation
        and value; the latter two are shares of the bounds.
      bounds: lowest and highest value of an image.
    """
    low, high = bounds
    hue, saturation, value = (shifts[:, i, None, None] for i in range(3))
    x = turn_hue((x - low) / (high - low), hue)
    largest, chroma = x.max(-1), x.max(-1) - x.min(-1)
    some = chroma > 0
    # Of how much a channel lies below the largest, as a share of the chroma.
    below = (largest[..., None] - x) / jnp.where(some, chroma, 1)[..., None]
    own = chroma / jnp.where(largest > 0, largest, 1)
    coloured = jnp.where(some, jnp.clip(own + saturation, 0, 1), 0)
    bright = jnp.clip(largest + value, 0, 1)
    out = bright[..., None] * (1 - coloured[..., None] * below)
    return jnp.clip(low + (high - low) * out, low, high)


def turn_hue(image: Float[Array, "... 3"], turn: Array) -> Float[Array, "... 3"]:
    """Turns the hue of red, green and blue in [0, 1] by a share of the circle."""
    value, chroma = image.max(-1), image.max(-1) - image.min(-1)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    safe = jnp.where(chroma > 0, chroma, 1)
    # By order and not by equality with the largest: a compiler may compute a channel
    # twice and round it differently, and where two are as large both give one hue.
    sextant = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # Back from hue: channel n is value - chroma * max(0, min(k, 4 - k, 1)).
    offsets = jnp.asarray([5, 3, 1], image.dtype).reshape((1,) * value.ndim + (3,))
    k = jnp.mod(offsets + (sextant + 6 * turn)[..., None], 6)
    share = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return value[..., None] - chroma[..., None] * share
