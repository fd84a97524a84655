"""Augmentation inside the jitted step: pure functions of an image and its own key."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrobust._checks import nearest_match
from jaxrobust.array_types import Images, Key
from jaxrobust.data import rand_augment
from jaxrobust.data.rand_augment import grey
from jaxrobust.threat.colour import turn_hue

Image = Float[Array, "H W C"]
Augment = Callable[[Images, Key], Images]
# The window of a random resized crop has an aspect ratio between 3/4 and 4/3.
_LOG_RATIO = math.log(4 / 3)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What to do to each image, in this order; the defaults do nothing.

    Attributes:
        random_resized_crop: smallest share of the area that a random window (aspect
            ratio 3/4 to 4/3) covers before it is resized to the full image; 0 is off.
        rotation: largest angle in degrees, either way; bilinear, black outside.
        crop_padding: black pixels added on every side before a random crop of the
            original size.
        flip: mirror left-right with probability 1/2.
        color_jitter: strength s of brightness, contrast and saturation, each with a
            factor uniform in [max(0, 1 - s), 1 + s]; grey images have no saturation.
        hue: largest shift of the hue, as a share of the circle, at most 0.5.
        cutout: side in pixels of a black square, about a random place of the image and
            cut off at its edges (DeVries and Taylor 2017, arXiv 1708.04552).
        rand_augment: operations of RandAugment per image (see `data.rand_augment`).
        rand_magnitude: their strength, of 30.
        probability: share of the images that are augmented at all.
    """

    random_resized_crop: float = 0.0
    rotation: float = 0.0
    crop_padding: int = 0
    flip: bool = False
    color_jitter: float = 0.0
    hue: float = 0.0
    cutout: int = 0
    rand_augment: int = 0
    rand_magnitude: float = 9.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        largest = {"random_resized_crop": 1, "rotation": 180, "hue": 0.5}
        largest |= {"probability": 1, "rand_magnitude": rand_augment.STRONGEST}
        for field in dataclasses.fields(self):
            value, most = getattr(self, field.name), largest.get(field.name)
            # `not` rather than <, so that NaN is refused too.
            if not (value >= 0 and (most is None or value <= most)):
                rule = "at least 0" if most is None else f"between 0 and {most}"
                raise ValueError(f"augment.{field.name} must be {rule}, got {value}")
        for name in ("crop_padding", "cutout", "rand_augment"):
            value = getattr(self, name)
            if value != int(value):
                raise ValueError(f"augment.{name} must be a whole number, got {value}")


def make(spec: Mapping[str, Any]) -> Augment:
    """Builds the augmentation that `spec` describes.

    Args:
        spec: fields of `Spec` by name; missing ones and None are off.

    Returns:
        `augment(images, keys) -> images`: images `[B, H, W, C]` in [0, 1], one key per
        image `[B]`. Pure and jittable, shape and dtype unchanged, values in [0, 1].
        What happens to an image depends on its key alone. A spec that does nothing
        gives back the very same array.

    Raises:
        ValueError: an unknown field or a value out of range.
    """
    known = [field.name for field in dataclasses.fields(Spec)]
    for name in spec:
        if name not in known and spec[name] is not None:
            near = nearest_match(name, known)
            raise ValueError(f"unknown augment field {name!r}. {near}")
    chosen = Spec(**{k: value for k, value in spec.items() if value is not None})
    # In the order in which they act; what is 0 or False is off.
    every = (
        (chosen.random_resized_crop, _resized_crop),
        (chosen.rotation, _rotate),
        (int(chosen.crop_padding), _crop),
        (chosen.flip, _flip),
        (int(chosen.rand_augment), _by_rand_augment(chosen.rand_magnitude)),
        (chosen.color_jitter, _jitter),
        (chosen.hue, _shift_hue),
        (int(chosen.cutout), _cut_out),
    )
    transforms = [functools.partial(act, amount) for amount, act in every if amount > 0]
    if not transforms or chosen.probability == 0:
        return lambda images, keys: images

    def augment_one(image: Image, key: Key) -> Image:
        gate_key, *transform_keys = jax.random.split(key, len(transforms) + 1)
        augmented = image
        for transform, transform_key in zip(transforms, transform_keys, strict=True):
            augmented = transform(augmented, transform_key)
        augmented = jnp.clip(augmented, 0, 1)
        if chosen.probability < 1:
            chance = _uniform(gate_key, 0, 1, jnp.float32)
            augmented = jnp.where(chance < chosen.probability, augmented, image)
        return augmented

    return jax.vmap(augment_one)


def _uniform(key: Key, low: float, high: float, dtype: Any) -> Array:
    # Drawn in float32 always (bernoulli would not): a float64 run chooses alike.
    return jax.random.uniform(key, (), jnp.float32, low, high).astype(dtype)


def _by_rand_augment(magnitude: float) -> Callable[[int, Image, Key], Image]:
    def act(count: int, image: Image, key: Key) -> Image:
        return rand_augment.layers(count, magnitude, image, key)

    return act


def _crop(padding: int, image: Image, key: Key) -> Image:
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1, jnp.int32)
    start = (top, left, jnp.zeros_like(top))
    return jax.lax.dynamic_slice(padded, start, image.shape)


def _cut_out(side: int, image: Image, key: Key) -> Image:
    hidden = box(key, image.shape[:2], jnp.int32(side))
    return jnp.where(hidden[..., None], 0, image)


def box(
    key: Key, shape: tuple[int, ...], sides: Int[Array, "..."]
) -> Bool[Array, "H W"]:
    """Marks the pixels of a box about a uniformly drawn one, cut off at the edges.

    `shape` is that of the image, (height, width); `sides` those of the box, traced, or
    one number for both.
    """
    size = jnp.asarray(shape, jnp.int32)
    centre = jax.random.randint(key, (2,), 0, size, jnp.int32)
    first = centre - sides // 2
    rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in shape)
    last = first + sides
    tall = (rows >= first[0]) & (rows < last[0])
    wide = (columns >= first[1]) & (columns < last[1])
    return tall[:, None] & wide[None]


def _flip(on: bool, image: Image, key: Key) -> Image:
    return jnp.where(_uniform(key, 0, 1, jnp.float32) < 0.5, image[:, ::-1], image)


def _rotate(degrees: float, image: Image, key: Key) -> Image:
    return _rotate_by(image, _uniform(key, -degrees, degrees, image.dtype))


def _rotate_by(image: Image, degrees: Array) -> Image:
    height, width, _ = image.shape
    angle = degrees * (jnp.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows, columns = jnp.mgrid[:height, :width].astype(image.dtype)
    down, right = rows - (height - 1) / 2, columns - (width - 1) / 2
    source = [
        cos * down + sin * right + (height - 1) / 2,
        cos * right - sin * down + (width - 1) / 2,
    ]
    sample = functools.partial(
        jax.scipy.ndimage.map_coordinates, coordinates=source, order=1, mode="constant"
    )
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def _resized_crop(smallest_area: float, image: Image, key: Key) -> Image:
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = _uniform(area_key, smallest_area, 1, image.dtype)
    log_ratio = _uniform(ratio_key, -_LOG_RATIO, _LOG_RATIO, image.dtype)
    # Sides as shares of the image; a ratio that sticks out is cut to the image.
    sides = jnp.sqrt(area * jnp.exp(jnp.stack([-log_ratio, log_ratio])))
    sides = jnp.minimum(sides, 1)
    place = jax.random.uniform(place_key, (2,), jnp.float32).astype(image.dtype)
    size = jnp.asarray(image.shape[:2], image.dtype)
    corner = place * (1 - sides) * size
    shift = -corner / sides
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), 1 / sides, shift, "linear", antialias=False
    )


def _jitter(strength: float, image: Image, key: Key) -> Image:
    brightness, contrast, saturation = jax.vmap(
        lambda key: _uniform(key, max(0.0, 1 - strength), 1 + strength, image.dtype)
    )(jax.random.split(key, 3))
    image = jnp.clip(image * brightness, 0, 1)
    image = jnp.clip(_blend(image, grey(image).mean(), contrast), 0, 1)
    if image.shape[-1] != 3:
        return image
    return jnp.clip(_blend(image, grey(image), saturation), 0, 1)


def _blend(image: Image, base: Array, factor: Array) -> Image:
    return base + factor * (image - base)


def _shift_hue(largest: float, image: Image, key: Key) -> Image:
    if image.shape[-1] != 3:
        raise ValueError(
            f"augment.hue needs 3-channel images, got {image.shape[-1]}; set it to 0"
        )
    return turn_hue(image, _uniform(key, -largest, largest, image.dtype))
