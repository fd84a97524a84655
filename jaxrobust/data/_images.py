"""Encoded and odd-sized images to uint8 arrays."""

import contextlib
import dataclasses
import functools
import io
import re
import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxrobust.data._reading import Refused
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
    """What an image file says of itself.

    Attributes:
        format: in Pillow's words.
        mode: in Pillow's words.
        height: of the upright image.
        width: of the upright image.
        grey: whether it has no colour.
        alpha: whether it has transparency, which is dropped.
        animated: whether it has more pictures than the first, which is taken.
        upright: whether it is stored as it is to be seen, without EXIF's rotation.
    """

    format: str
    mode: str
    height: int
    width: int
    grey: bool
    alpha: bool
    animated: bool
    upright: bool


def decode(encoded: bytes, channels: int, size: int | None = None) -> NDArray[np.uint8]:
    """Decodes a PNG, JPEG ... to uint8 `[H, W, channels]`, upright as EXIF says.

    Transparency is dropped; of an animation the first picture is taken. Other numbers
    of channels become 1 (grey) or 3 (red, green, blue); `size` is as of `resize`.

    Raises:
        ValueError: no image, one of more than 8 bits per channel, or of more than
            89 million pixels.
    """
    try:
        with _open(io.BytesIO(encoded)) as image:
            _check(image)
            return _to_array(_turned(image), channels, size)
    except MemoryError:
        raise
    except Exception as error:  # whatever Pillow raises for damaged files
        raise _named(error) from None


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes `[H, W, C]` to `[size, size, C]`: shorter side to size, centre crop."""
    planes = [Image.fromarray(image[..., c]) for c in range(image.shape[-1])]
    return np.stack([np.asarray(_square(plane, size)) for plane in planes], axis=-1)


def header(stream: IO[bytes]) -> Header:
    """Reads what comes before the pixels of an image file.

    Raises:
        ValueError: as `decode`.
    """
    try:
        with _open(stream) as image:
            _check(image)
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
                animated=image.format in _ANIMATED
                and getattr(image, "is_animated", False),
                upright=turn not in range(2, 9),
            )
    except MemoryError:
        raise
    except Exception as error:  # whatever Pillow raises for damaged files
        raise _named(error) from None


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _SUFFIXES_OF if name in Image.OPEN)


def _open(stream: IO[bytes]) -> Image.Image:
    return Image.open(stream, formats=_formats())


def _check(image: Image.Image) -> None:
    """Refuses what would be read wrongly, or take all memory."""
    if image.width * image.height > MOST_PIXELS:
        raise Refused(
            f"{image.width}x{image.height} pixels are too many (at most "
            f"{MOST_PIXELS:,}): make it smaller"
        )
    depth = _depth(image)
    if depth:
        raise Refused(
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


def _named(error: Exception) -> ValueError:
    """The error in a line, without addresses in memory."""
    if isinstance(error, UnidentifiedImageError):
        return ValueError("not a readable image: in no known format")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return ValueError(f"too many pixels (at most {MOST_PIXELS:,}): make it smaller")
    if isinstance(error, Refused):
        return error
    return ValueError(f"not a readable image: {reading.first_line(error)}")


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
