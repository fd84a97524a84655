"""Encoded and odd-sized images to uint8 arrays."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Pillow cuts these off at 255 on conversion instead of scaling.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def decode(encoded: bytes, channels: int, size: int | None = None) -> NDArray[np.uint8]:
    """Decodes a PNG, JPEG ... to uint8 `[H, W, channels]`.

    Args:
        encoded: the content of an image file.
        channels: 1 (grey) or 3 (red, green, blue); others are converted.
        size: None keeps height and width, else see `resize`.

    Raises:
        ValueError: no image, or one of more than 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode in _DEEP_MODES:
                raise ValueError(f"more than 8 bits per channel (mode {image.mode})")
            return _to_array(image, channels, size)
    except UnidentifiedImageError:  # its message holds an address in memory
        raise ValueError("not a readable image: in no known format") from None
    except OSError as error:
        raise ValueError(f"not a readable image: {error}") from None


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes `[H, W, C]` to `[size, size, C]`: shorter side to size, centre crop."""
    planes = [Image.fromarray(image[..., c]) for c in range(image.shape[-1])]
    return np.stack([np.asarray(_square(plane, size)) for plane in planes], axis=-1)


def header(encoded: bytes) -> tuple[tuple[int, int], bool]:
    """Height, width, and whether an image file is grey; (0, 0) where unreadable."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return (image.height, image.width), image.mode in ("1", "L", "LA")
    except (UnidentifiedImageError, OSError):
        return (0, 0), True


def _to_array(image: Image.Image, channels: int, size: int | None) -> NDArray[np.uint8]:
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None:
        image = _square(image, size)
    array = np.asarray(image)
    return array[..., None] if channels == 1 else array


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # Pillow's `box` crops and resizes at once; its bilinear filter is antialiased.
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
