"""What a set holds, in a few bytes: to tell changed data, and to know images again."""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxrobust.data._dataset import spread
from jaxrobust.data._machine import in_threads
from jaxrobust.data._source import Source

_CHUNK = 256
# Up to here every image counts: what `data.feed=auto` keeps in memory anyway.
_WHOLE_BYTES = 2 << 30
_SAMPLE = 4096


def digest(source: Source) -> str:
    """Names a set, or a part of one, by its content, in memory or on disk.

    Count, shape, class names, every label and, in order, the pixels of every image;
    of a set of more than 2 GiB (as uint8) the pixels of 4,096 images at even distances,
    so that a change of others goes unseen there. Sets on disk are decoded once for it.
    The pixels of a JPEG may differ between versions of Pillow.

    Returns:
        64 hexadecimal digits.
    """
    about = (len(source), source.shape, source.class_names)
    found = hashlib.sha256(repr(about).encode())
    found.update(np.ascontiguousarray(source.labels, "<i4").tobytes())
    limit = None if source.nbytes <= _WHOLE_BYTES else _SAMPLE
    rows = spread(len(source), limit)
    found.update(image_digests(source, rows).astype("<u8").tobytes())
    return found.hexdigest()


def image_digests(
    source: Source, indices: ArrayLike | None = None
) -> NDArray[np.uint64]:
    """Names single images by their content, so that they are known again elsewhere.

    `np.isin(image_digests(a), image_digests(b))` says which images of `a` are in `b`,
    whatever their order, file names and labels (both at the same size and channels).

    Args:
        source: the set; images on disk are decoded for it, in threads.
        indices: of the images wanted; None means all.

    Returns:
        uint64, one per image, of its shape and pixels: two different images share one
        with a chance of about N^2 / 2^65 in a set of N.
    """
    rows = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    shape = np.asarray(source.shape, "<i8").tobytes()

    def hashes(part: slice) -> list[int]:
        contents = (image.tobytes() for image in source.read(rows[part]))
        found = (hashlib.blake2b(one, digest_size=8, key=shape) for one in contents)
        return [int.from_bytes(one.digest(), "little") for one in found]

    found = in_threads(hashes, len(rows), _CHUNK, "comparing images")
    return np.array(found, np.uint64)
