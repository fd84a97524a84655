"""RandAugment (Cubuk et al., CVPR Workshops 2020, arXiv 1909.13719) inside a step.

Each layer does one of 14 operations, drawn evenly, at one strength. Ranges are those of
torchvision: shears to .3, shifts to 150/331 of the side, rotations to 30 degrees,
factors of 1 -+ .9, 4 bits fewer, everything solarised. Directions are drawn. Images are
looked up between pixels, black outside (the paper's code takes the nearest one); what
counts grey levels does so in 256.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jaxrobust.array_types import Key

Image = Float[Array, "H W C"]
Strength = Float[Array, ""]  # in [-1, 1]; the sign is a direction

STRONGEST = 30.0
_LEVELS = 255


def layers(count: int, magnitude: float, image: Image, key: Key) -> Image:
    """Does `count` operations of strength `magnitude` / 30 to an image in [0, 1]."""
    for layer_key in jax.random.split(key, count):
        image = _layer(magnitude / STRONGEST, image, layer_key)
    return image


def _layer(strength: float, image: Image, key: Key) -> Image:
    which_key, sign_key = jax.random.split(key)
    names = (*MOVES, *COLOURS)
    which = jax.random.randint(which_key, (), 0, len(names), jnp.int32)
    # Drawn in float32 always: a float64 run draws alike.
    up = jax.random.uniform(sign_key, (), jnp.float32) < 0.5
    amount = strength * jnp.where(up, 1, -1).astype(image.dtype)
    # One of them moves pixels: they are looked up once, for all five moves.
    matrices = jnp.stack([move(amount, image) for move in MOVES.values()])
    moved = _warped(image, matrices[jnp.minimum(which, len(MOVES) - 1)])
    made = [moved] * len(MOVES) + [change(amount, image) for change in COLOURS.values()]
    return jnp.clip(jax.lax.select_n(which, *made), 0, 1)


def _warped(image: Image, matrix: Float[Array, "2 3"]) -> Image:
    """Looks pixels up at a linear function of their place, seen from the centre."""
    height, width, _ = image.shape
    rows, columns = jnp.mgrid[:height, :width].astype(image.dtype)
    middle = (height - 1) / 2, (width - 1) / 2
    down, right = rows - middle[0], columns - middle[1]
    at = [
        row[0] * down + row[1] * right + row[2] + centre
        for row, centre in zip(matrix, middle, strict=True)
    ]
    look = functools.partial(map_coordinates, coordinates=at, order=1, mode="constant")
    return jax.vmap(look, -1, -1)(image)


def _matrix(a: Array, b: Array, down: Array, c: Array, d: Array, right: Array) -> Array:
    return jnp.stack([jnp.stack([a, b, down]), jnp.stack([c, d, right])])


def _shear(axis: int) -> Callable[[Strength, Image], Array]:
    def matrix(amount: Strength, image: Image) -> Array:
        one, none = jnp.ones_like(amount), jnp.zeros_like(amount)
        lean = 0.3 * amount
        # As published: the first corner stays, not the centre.
        far = lean * image.shape[1 - axis] / 2
        if axis == 0:
            return _matrix(one, lean, far, none, one, none)
        return _matrix(one, none, none, lean, one, far)

    return matrix


def _shift(axis: int) -> Callable[[Strength, Image], Array]:
    def matrix(amount: Strength, image: Image) -> Array:
        one, none = jnp.ones_like(amount), jnp.zeros_like(amount)
        far = 150 / 331 * image.shape[axis] * amount
        tall, wide = (far, none) if axis == 0 else (none, far)
        return _matrix(one, none, tall, none, one, wide)

    return matrix


def _rotate(amount: Strength, image: Image) -> Array:
    angle, none = amount * (jnp.pi / 6), jnp.zeros_like(amount)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _matrix(cos, sin, none, -sin, cos, none)


def _towards(
    base: Callable[[Image], Array],
) -> Callable[[Strength, Image], Image]:
    """Returns a mean with another image, or the way from it."""

    def change(amount: Strength, image: Image) -> Image:
        other = base(image)
        return other + (1 + 0.9 * amount) * (image - other)

    return change


def grey(image: Image) -> Float[Array, "H W 1"]:
    """Returns the luma of red, green and blue; of other channels the mean."""
    if image.shape[-1] != 3:
        return image.mean(-1, keepdims=True)
    return (image @ jnp.asarray([0.299, 0.587, 0.114], image.dtype))[..., None]


def _softened(image: Image) -> Image:
    """Returns means over 3 x 3 pixels, the own one five times; the edge stays."""
    near = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    height, width, _ = image.shape
    total = sum(near[i : i + height, j : j + width] for i in range(3) for j in range(3))
    inner = jnp.zeros((height, width, 1), bool).at[1:-1, 1:-1].set(True)
    return jnp.where(inner, (total + 4 * image) / 13, image)


def _posterize(amount: Strength, image: Image) -> Image:
    size = 2 ** jnp.round(4 * jnp.abs(amount))
    return jnp.floor(_level(image) / size) * size / _LEVELS


def _solarize(amount: Strength, image: Image) -> Image:
    return jnp.where(image >= 1 - jnp.abs(amount), 1 - image, image)


def _autocontrast(amount: Strength, image: Image) -> Image:
    low, high = image.min((0, 1)), image.max((0, 1))
    wide = jnp.where(high > low, high - low, 1)
    return jnp.where(high > low, (image - low[None, None]) / wide[None, None], image)


def _equalize(amount: Strength, image: Image) -> Image:
    def one(channel: Float[Array, "H W"]) -> Float[Array, "H W"]:
        level = _level(channel).astype(jnp.int32)
        counts = jnp.zeros(_LEVELS + 1, jnp.int32).at[level].add(1)
        brightest = counts[level.max()]
        step = (counts.sum() - brightest) // _LEVELS
        before = jnp.cumsum(counts) - counts
        made = (before + step // 2) // jnp.maximum(step, 1)
        made = jnp.clip(made, 0, _LEVELS)[level].astype(channel.dtype) / _LEVELS
        return jnp.where(step > 0, made, channel)

    return jax.vmap(one, -1, -1)(image)


def _level(image: Image) -> Image:
    return jnp.round(image * _LEVELS)


MOVES: dict[str, Callable[[Strength, Image], Array]] = {
    "shear rows": _shear(0),
    "shear columns": _shear(1),
    "shift rows": _shift(0),
    "shift columns": _shift(1),
    "rotate": _rotate,
}
COLOURS: dict[str, Callable[[Strength, Image], Image]] = {
    "identity": lambda amount, image: image,
    "brightness": _towards(jnp.zeros_like),
    "contrast": _towards(lambda image: grey(image).mean()),
    "color": _towards(grey),
    "sharpness": _towards(_softened),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
