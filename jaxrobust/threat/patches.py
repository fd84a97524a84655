"""Images with a patch pasted on: what is under it may be anything."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxrobust.array_types import Images, Key

# Of a patch's centre, in pixels from the upper left one; its size; degrees.
Places = Float[Array, "B 4"]


def paste(x: Images, patch: Images, place: Places) -> Images:
    """Pastes a patch on each image, scaled and rotated about its centre.

    Where it ends between pixels it is mixed with the image. What reaches beyond the
    image is cut off. At scale 1 and 0 degrees, a centre such that its pixels lie on
    those of the image copies it exactly.

    Args:
      x: images `[B, H, W, C]`.
      patch: `[h, w, C]` for all, or one per image `[B, h, w, C]`.
      place: `[B, 4]`: row and column of the centre, scale, and degrees
        counterclockwise.
    """
    patch = jnp.broadcast_to(patch, (len(x), *patch.shape[-3:])).astype(x.dtype)
    # So that the edge of a mask is 0 beyond the patch.
    solid = jnp.concatenate([patch, jnp.ones_like(patch[..., :1])], axis=3)
    high, wide = patch.shape[1:3]
    centre = jnp.array([(high - 1) / 2, (wide - 1) / 2], x.dtype)[:, None, None]
    rows, columns = (jnp.arange(n, dtype=x.dtype) for n in x.shape[1:3])
    grid = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"))

    def one(entries: jax.Array, place: Float[Array, "4"]) -> jax.Array:
        down, right = (grid - place[:2, None, None]) / place[2]
        angle = place[3] * (jnp.pi / 180)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        at = jnp.stack([cos * down + sin * right, cos * right - sin * down]) + centre
        look = lambda t: map_coordinates(t, list(at), order=1, cval=0.0)  # noqa: E731
        return jax.vmap(look, 2, 2)(entries)

    found = jax.vmap(one)(solid, place.astype(x.dtype))
    mask = found[..., -1:]
    return x * (1 - mask) + found[..., :-1]


def places(
    key: Key,
    image: Sequence[int],
    patch: Sequence[int],
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    rotation: float = 0.0,
) -> Places:
    """Draws where a patch goes, a place per key `[B]`: all of it inside, if it fits.

    Corners of a rotated one may be cut off.

    Args:
      key: one per image.
      image: height and width of the images.
      patch: height and width of the patch.
      scale: between which it is drawn, uniformly.
      rotation: up to how many degrees, to both sides.
    """

    def one(key: Key) -> Float[Array, "4"]:
        where, size, turn = jax.random.split(key, 3)
        scaled = jax.random.uniform(size, minval=scale[0], maxval=scale[1])
        degrees = jax.random.uniform(turn, minval=-rotation, maxval=rotation)
        half = scaled * jnp.array(patch) / 2
        room = jnp.maximum(jnp.array(image) - 2 * half, 0)
        at = half - 0.5 + room * jax.random.uniform(where, (2,))
        if scale == (1, 1) and not rotation:
            at = jnp.round(at - half + 0.5) + half - 0.5  # on the pixels of the image
        return jnp.append(at, jnp.stack([scaled, degrees]))

    return jax.vmap(one)(key)
