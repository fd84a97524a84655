"""Encoded and odd-sized images to uint8 arrays."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decode(encoded: bytes, channels: int | None, size: int | None) -> NDArray[np.uint8]:
    """Decodes a PNG, JPEG ... to uint8 `[H, W, C]`.

    Args:
        encoded: the content of an image file.
        channels: 1 (grey) or 3 (red, green, blue); None keeps grey grey and makes
            everything else three channels.
        size: None keeps the size, else see `resize`.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        return _to_array(image, channels, size)


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes `[H, W, C]` to `[size, size, C]`: shorter side to size, centre crop."""
    if image.shape[:2] == (size, size):
        return image
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    return _to_array(picture, image.shape[-1], size)


def _to_array(
    image: Image.Image, channels: int | None, size: int | None
) -> NDArray[np.uint8]:
    if channels is None:
        channels = 1 if image.mode in ("1", "L", "LA") else 3
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size, size):
        image = _square(image, size)
    array = np.asarray(image)
    return array[..., None] if channels == 1 else array


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # Pillow's `box` crops and resizes at once; bilinear there is antialiased.
    return image.resize(
        (size, size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
    )
