"""What a network does with its images first: checks and normalises them."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrobust.array_types import Images


def check_images(images: Any) -> None:
    """Raises unless images are floating and `[B, H, W, C]`."""
    dtype = getattr(images, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`images` are {dtype or type(images).__name__}; networks need a floating "
            "array with values in [0, 1]: divide by 255, as "
            "jnp.asarray(images, jnp.float32) / 255."
        )
    if images.ndim != 4:
        raise ValueError(
            f"`images` must have shape [B, H, W, C], got {images.shape}; a single "
            "image needs a batch axis, images[None], grey images a channel axis."
        )


def normalize(
    x: Images, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Images:
    """Returns (x - mean) / std per channel; None leaves that part out.

    Raises:
      ValueError: unless images are `[B, H, W, C]`, the number of values is 1 or C, and
        every `std` is above 0.
      TypeError: unless images are floating, and `mean` and `std` sequences of numbers.
    """
    check_images(x)
    if mean is not None:
        x = x - _per_channel("mean", mean, x)
    if std is not None:
        scale = _per_channel("std", std, x)
        if not min(std) > 0:
            raise ValueError(f"`std` must be above 0, got {std}.")
        x = x / scale
    return x


def _per_channel(name: str, values: Any, x: Images) -> jnp.ndarray:
    channels = x.shape[-1]
    array = np.asarray(values)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(
            f"`{name}` must be a tuple of {channels} numbers, one per channel, got "
            f"{values!r}."
        )
    if len(array) not in (1, channels):
        raise ValueError(
            f"`{name}` has {len(array)} values, the images {channels} channels: give "
            f"a tuple of {channels}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got {values}.")
    return jnp.asarray(values, x.dtype).reshape(1, 1, 1, -1)
