"""What the classifiers with convolutions and then dense layers share."""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models.layers import Features

Vectors = Float[Array, "B D"]


def flatten(x: Features) -> Vectors:
    """Flattens `[B, H, W, C]` in torch's order: channel, row, column."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def dropout(module: nn.Module, x: Vectors, rate: float, train: bool) -> Vectors:
    """Drops entries in train mode where the caller gives a `dropout` key.

    Train mode without a key (an attack on batch statistics, say) drops nothing.
    """
    active = train and module.has_rng("dropout")
    return nn.Dropout(rate, deterministic=not active)(x)


def check_rate(rate: object) -> None:
    """Raises ValueError unless `rate` is a dropout rate."""
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"`dropout` must lie in [0, 1), got {rate!r}.")


def check_image_size(images: Images, least: int, network: str, hint: str = "") -> None:
    """Raises ValueError if images `[B, H, W, C]` have a side below `least`."""
    layers.check_images(images)
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise ValueError(
            f"{network} needs images of at least {least}x{least} pixels, got "
            f"{height}x{width} (`images` of shape {images.shape}){hint}."
        )
