"""Encoded and odd-sized images to one uint8 array."""

import concurrent.futures
import io
from collections.abc import Callable, Sequence

import numpy as np
import tqdm
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_CHUNK = 256
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
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"not a readable image: {error}") from None


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes `[H, W, C]` to `[size, size, C]`: shorter side to size, centre crop."""
    planes = [Image.fromarray(image[..., c]) for c in range(image.shape[-1])]
    return np.stack([np.asarray(_square(plane, size)) for plane in planes], axis=-1)


def assemble(
    fetch: Callable[[range], Sequence[tuple[bytes, int]]],
    count: int,
    *,
    shape: tuple[int | None, ...],
    size: int | None,
    describe: Callable[[int], str],
    title: str,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Decodes `count` labelled images, in threads, into one array.

    Args:
        fetch: gives encoded images and labels of a range of positions.
        count: how many there are.
        shape: `[H, W, C]` of every image; an unknown H or W is None.
        size: None, or the side to resize to.
        describe: a position in words, for errors.
        title: of the progress bar.

    Returns:
        Images `[count, H, W, C]` and labels `[count]`.

    Raises:
        ValueError: an image that cannot be read or whose shape differs, by name.
    """
    channels = shape[2] or 3
    height, width = (size, size) if size else shape[:2]
    if count and (height is None or width is None):
        [(first, _)] = fetch(range(1))
        height, width = _named(first, channels, size, describe(0)).shape[:2]
    images = np.empty((count, height or 0, width or 0, channels), np.uint8)
    labels = np.empty(count, np.int32)

    def fill(positions: range) -> int:
        for position, (encoded, label) in zip(positions, fetch(positions), strict=True):
            image = _named(encoded, channels, size, describe(position))
            if image.shape != images.shape[1:]:
                raise ValueError(
                    f"the images differ in size: {describe(position)} is {image.shape}"
                    f", not {images.shape[1:]}; pass image_size to resize them"
                )
            images[position], labels[position] = image, label
        return len(positions)

    chunks = [range(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
    # A bar only for loads long enough to wonder about, and never in a log file.
    bar = tqdm.tqdm(total=count, desc=title, leave=False, disable=None, delay=2)
    with bar, concurrent.futures.ThreadPoolExecutor() as pool:
        for done in pool.map(fill, chunks):
            bar.update(done)
    return images, labels


def _named(
    encoded: bytes, channels: int, size: int | None, description: str
) -> NDArray[np.uint8]:
    try:
        return decode(encoded, channels, size)
    except ValueError as error:
        raise ValueError(f"{description}: {error}") from None


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
