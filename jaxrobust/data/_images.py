"""Encoded and odd-sized images to uint8 arrays."""

import contextlib
import dataclasses
import functools
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxrobust.data._reading import RefusedFile
from jaxrobust.runtime import reading

# Some of Pillow's other formats start programs (EPS) or are no pictures.
_SUFFIXES_OF = {
    "PNG": ".png .apng",
    "JPEG": ".jpg .jpeg .jpe .jfif .mpo",
    "BMP": ".bmp",
    "DIB": ".dib",
    "GIF": ".gif",
    "WEBP": ".webp",
    "AVIF": ".avif",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "TGA": ".tga",
    "PCX": ".pcx",
    "QOI": ".qoi",
}
SUFFIXES = tuple(" ".join(_SUFFIXES_OF.values()).split())
# Pillow cuts these off at 255 on conversion instead of scaling.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_GREY_MODES = ("1", "L", "LA", "La")
_ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")  # an MPO's second picture is a preview
_ORIENTATION = 0x0112  # of EXIF and TIFF
_BITS_PER_SAMPLE = 258  # of TIFF
# What Pillow raises for a damaged EXIF, which then says nothing.
_DAMAGED_EXIF = (
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    ArithmeticError,
    OSError,
    struct.error,
)
# About 9,459 x 9,459: above it Pillow itself warns of a bomb.
MOST_PIXELS = (1 << 30) // 4 // 3


@dataclasses.dataclass(frozen=True)
class Header:
    """What an image file says of itself."""

    format: str  # in Pillow's words
    mode: str
    height: int  # of the upright image
    width: int
    grey: bool  # without colour
    alpha: bool  # with transparency, which is dropped
    animated: bool  # with more pictures than the first, which is taken
    upright: bool  # stored as it is to be seen, without EXIF's rotation


def decode(encoded: bytes, channels: int, size: int | None = None) -> NDArray[np.uint8]:
    """Decodes a PNG, JPEG ... to uint8 `[H, W, channels]`, upright as EXIF says.

    Transparency is dropped; of an animation the first picture is taken. Other numbers
    of channels become 1 (grey) or 3 (red, green, blue); `size` is as of `resize`.
    More than 8 bits per channel, and more than 89 million pixels, are refused.
    """
    with _opened(io.BytesIO(encoded)) as image:
        return _to_array(_turned(image), channels, size)


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes `[H, W, C]` to `[size, size, C]`: shorter side to size, centre crop."""
    planes = [Image.fromarray(image[..., c]) for c in range(image.shape[-1])]
    return np.stack([np.asarray(_square(plane, size)) for plane in planes], axis=-1)


def header(stream: IO[bytes]) -> Header:
    """Reads what comes before the pixels of a file; refuses what `decode` does."""
    with _opened(stream) as image:
        # Pillow turns a TIFF by itself, and `getexif` of a PNG reads its pixels:
        # this one, of EXIF and XMP, takes what came before them.
        turn = 1
        if image.format != "TIFF":
            with contextlib.suppress(*_DAMAGED_EXIF):
                turn = Image.Image.getexif(image).get(_ORIENTATION, 1)
        width, height = image.size
        if turn in (5, 6, 7, 8):
            width, height = height, width
        return Header(
            image.format or "",
            image.mode,
            height,
            width,
            grey=image.mode in _GREY_MODES,
            alpha=image.mode in _ALPHA_MODES or "transparency" in image.info,
            animated=image.format in _ANIMATED and getattr(image, "is_animated", False),
            upright=turn not in range(2, 9),
        )


_OPENING = threading.Lock()


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _SUFFIXES_OF if name in Image.OPEN)


@contextlib.contextmanager
def _opened(stream: IO[bytes]) -> Iterator[Image.Image]:
    """An image that can be read rightly; what it is otherwise is said in a line."""
    try:
        # Warnings are of all threads, and this one is an error: it is told in our line.
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(stream, formats=_formats())
        with opened as image:
            _check(image)
            yield image
    except (MemoryError, RefusedFile):
        raise
    except UnidentifiedImageError:
        raise ValueError("not a readable image: in no known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"too many pixels (at most {MOST_PIXELS:,}): make it smaller"
        ) from None
    except Exception as error:  # whatever Pillow raises for damaged files
        raise ValueError(f"not a readable image: {reading.first_line(error)}") from None


def _check(image: Image.Image) -> None:
    """Refuses what would be read wrongly, or take all memory."""
    if image.width * image.height > MOST_PIXELS:
        raise RefusedFile(
            f"{image.width}x{image.height} pixels are too many (at most "
            f"{MOST_PIXELS:,}): make it smaller"
        )
    depth = _depth(image)
    if depth:
        raise RefusedFile(
            f"more than 8 bits per channel ({depth}), of which nothing says how they "
            "are to be scaled: save it with 8"
        )


def _depth(image: Image.Image) -> str | None:
    """Says how an image has more than 8 bits per channel, None where it has not."""
    if image.mode in _DEEP_MODES:
        return f"mode {image.mode}"
    # Pillow keeps the upper 8 bits of colour images: grey and colour are refused alike.
    details: list[Any] = [args for *_, args in getattr(image, "tile", ())]
    if re.search(r"(?<!BGR);16", str(details)):  # BGR;16 is 5, 6 and 5 bits
        return f"mode {image.mode};16"
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    if any(bit > 8 for bit in bits):
        return f"{max(bits)} bits"
    if image.format == "PPM" and details and isinstance(details[0], tuple):
        largest = details[0][-1]
        if isinstance(largest, int) and largest > 255:
            return f"values up to {largest}"
    return None


def _turned(image: Image.Image) -> Image.Image:
    """Turns an image as its EXIF says; a damaged EXIF says nothing."""
    image.load()  # whatever fails from here on is the EXIF
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED_EXIF:
        return image


def _to_array(image: Image.Image, channels: int, size: int | None) -> NDArray[np.uint8]:
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
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
