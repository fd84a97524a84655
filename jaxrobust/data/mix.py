"""Images mixed two by two, and with them their labels: MixUp and CutMix."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import _checks
from jaxrobust.array_types import Images, Key, Labels
from jaxrobust.data.augment import Image, box

Share = Float[Array, ""]
Mixing = Callable[[Images, Labels, Key], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class MixSpec:
    """How to mix; the defaults do nothing.

    Where both are on, each image is mixed by one or the other, at even odds.

    Attributes:
        mixup: alpha of the Beta(alpha, alpha) that an image's share is drawn from; the
            rest is another image (Zhang et al., ICLR 2018, arXiv 1710.09412). 0 is off.
        cutmix: likewise, the share being of the area: a box of the other image is
            pasted in (Yun et al., ICCV 2019, arXiv 1905.04899). 0 is off.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what is no number, or out of range."""
        for name, value in vars(self).items():
            _checks.check_one_number(f"mix.{name}", value, _checks.FINITE)


def make(spec: Mapping[str, Any], classes: int) -> Mixing | None:
    """Builds the mixing that `spec` describes, of labels below `classes`.

    Args:
        spec: fields of `MixSpec` by name; missing ones and None are off.
        classes: K, how many there are.

    Returns:
        None where nothing is mixed, else `mix(images, labels, keys) -> arrays`: images
        `[B, H, W, C]`, labels `[B]`, a key per image `[B]`; `image` of the same shape,
        each image mixed with the one before it in the batch, `target` `[B, K]`, the
        shares of the classes, and `label` `[B]`, the larger one's. Pure and jittable;
        under `jit` the target of a label that is no class is NaN.

    Raises:
        ValueError, TypeError: an unknown field or a value out of range; from `mix`, for
            what is no floating images, a label for each, or a class.
    """
    known = [field.name for field in dataclasses.fields(MixSpec)]
    for name in spec:
        if name not in known:
            near = _checks.nearest_match(name, known)
            raise ValueError(f"unknown mix field {name!r}. {near}")
    chosen = MixSpec(**{k: value for k, value in spec.items() if value is not None})
    if not (chosen.mixup or chosen.cutmix):
        return None

    def one(image: Image, other: Image, key: Key) -> tuple[Image, Share]:
        which, blend_key, cut_key = jax.random.split(key, 3)
        if not chosen.cutmix:
            return _blend(chosen.mixup, image, other, blend_key)
        if not chosen.mixup:
            return _paste(chosen.cutmix, image, other, cut_key)
        cuts = jax.random.uniform(which, (), jnp.float32) < 0.5
        cut = _paste(chosen.cutmix, image, other, cut_key)
        blended = _blend(chosen.mixup, image, other, blend_key)
        return jax.tree.map(lambda a, b: jnp.where(cuts, a, b), cut, blended)

    def mix(images: Images, labels: Labels, keys: Key) -> dict[str, Array]:
        _checks.check_images(images, "images")
        _checks.check_labels(labels, len(images), "labels")
        _checks.check_classes(labels, classes, "labels")
        keys = _checks.row_keys(keys, len(images))
        # The order of a batch is random: any neighbour is a random image.
        others, theirs = jnp.roll(images, 1, axis=0), jnp.roll(labels, 1)
        mixed, share = jax.vmap(one)(images, others, keys)
        own, other = (_shares(y, classes, share.dtype) for y in (labels, theirs))
        target = share[:, None] * own + (1 - share[:, None]) * other
        label = jnp.where(share >= 0.5, labels, theirs)
        return {"image": mixed, "target": target, "label": label}

    return mix


def _shares(y: Labels, classes: int, dtype: Any) -> Float[Array, "B K"]:
    """One for the class of each row; NaN where it is none, which would be all zeros."""
    known = (y >= 0) & (y < classes)
    return jnp.where(known[:, None], jax.nn.one_hot(y, classes, dtype=dtype), jnp.nan)


def _share(alpha: float, key: Key, dtype: Any) -> Share:
    # Drawn in float32 always: a float64 run draws alike.
    return jax.random.beta(key, alpha, alpha, (), jnp.float32).astype(dtype)


def _blend(alpha: float, image: Image, other: Image, key: Key) -> tuple[Image, Share]:
    share = _share(alpha, key, image.dtype)
    return share * image + (1 - share) * other, share


def _paste(alpha: float, image: Image, other: Image, key: Key) -> tuple[Image, Share]:
    share_key, place_key = jax.random.split(key)
    side = jnp.sqrt(1 - _share(alpha, share_key, image.dtype))
    size = jnp.asarray(image.shape[:2], image.dtype)
    pasted = box(place_key, image.shape[:2], (side * size).astype(jnp.int32))
    # What was cut off at the edges stays the image's own.
    share = 1 - pasted.mean(dtype=image.dtype)
    return jnp.where(pasted[..., None], other, image), share
