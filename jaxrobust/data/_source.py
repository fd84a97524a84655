"""Image sets that are read when asked: in memory, or encoded on disk."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxrobust.data import _images
from jaxrobust.data._dataset import (
    Dataset,
    as_labels,
    checked_rows,
    spread,
    stratified_indices,
)
from jaxrobust.data._machine import in_threads, memory
from jaxrobust.data._reading import named

_CHUNK = 256
# Up to here every image counts: what `data.feed=auto` keeps in memory anyway.
_WHOLE_BYTES = 2 << 30
_SAMPLE = 4096


@dataclasses.dataclass(eq=False, kw_only=True)
class EncodedSource:
    """Labelled images that stay encoded on disk until they are read; see `Source`.

    A kind of set says how with `fetch`, `stored_labels` and `describe`, of the rows
    that are stored.
    """

    name: str  # what `data.load` calls the set
    class_names: tuple[str, ...]
    rows: NDArray[np.int64]  # those stored that belong to the set, in its order
    shape: tuple[int, int, int]  # height, width and channels of every image
    stored_channels: int  # 1 or 3; one is copied where `shape` has three
    size: int | None  # to resize to
    known_labels: NDArray[np.int32] | None = None  # of `rows`, once they are read

    def fetch(self, rows: Sequence[int]) -> Sequence[tuple[bytes, int]]:
        """The content of the image files of some rows, and their labels."""
        raise NotImplementedError

    def stored_labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The labels of some rows."""
        raise NotImplementedError

    def describe(self, row: int) -> str:
        """A row in words, for errors."""
        raise NotImplementedError

    def __len__(self) -> int:
        """The number of images N."""
        return len(self.rows)

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    @property
    def nbytes(self) -> int:
        """Bytes of all images as uint8, known before they are read."""
        height, width, channels = self.shape
        return len(self) * height * width * channels

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels `[N]`, read at their first use."""
        if self.known_labels is None:
            stored = self.stored_labels(self.rows)
            self.known_labels = as_labels(stored, self.num_classes)
        return self.known_labels

    def read(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """The images at `indices`, uint8 `[n, H, W, C]`, decoded and resized now."""
        rows = self.rows[checked_rows(indices, len(self))]
        images = np.empty((len(rows), *self.shape), np.uint8)
        self._decode(rows, images)
        return images

    def take(self, indices: ArrayLike) -> Self:
        """The examples at `indices`, in that order; reads nothing."""
        rows = checked_rows(indices, len(self))
        known = None if self.known_labels is None else self.known_labels[rows]
        return dataclasses.replace(self, rows=self.rows[rows], known_labels=known)

    def load(self) -> Dataset:
        """Decodes all of it, in threads, into one array."""
        if self.nbytes > memory():
            raise ValueError(
                f"{self.name} has {self.nbytes / 2**30:.1f} GiB of pixels, more "
                f"than the {memory() / 2**30:.1f} GiB of memory; make the images "
                "smaller (image_size), take fewer (limit), or let them stream "
                "(--config.data.feed=stream; tests are read whole)"
            )
        images = np.empty((len(self), *self.shape), np.uint8)

        def fill(part: slice) -> list[int]:
            return self._decode(self.rows[part], images[part])

        labels = in_threads(fill, len(self), _CHUNK, f"loading {self.name}")
        known = as_labels(np.array(labels, np.int64), self.num_classes)
        return Dataset(images, known, self.class_names)

    def _decode(self, rows: NDArray[np.int64], images: NDArray[np.uint8]) -> list[int]:
        """Puts the images of some rows into `images`; returns their labels."""
        found = self.fetch(rows.tolist())
        stored_shape = (*self.shape[:2], self.stored_channels)
        for place, (row, (encoded, _)) in enumerate(zip(rows, found, strict=True)):
            with named(self.describe, int(row)):
                image = _images.decode(encoded, self.stored_channels, self.size)
            if image.shape != stored_shape:
                raise ValueError(
                    f"the images differ in size: {self.describe(int(row))} is "
                    f"{image.shape}, not {stored_shape}; pass image_size to "
                    "resize them"
                )
            images[place] = image  # one channel is copied to three
        return [label for _, label in found]


Source = Dataset | EncodedSource
"""Labelled images of one shape, read row by row: in memory, or on disk until asked for.

Reading may happen in several threads at once, and a source can be pickled, so that
other processes read too.
"""

SourceT = TypeVar("SourceT", bound=Source)


def split_validation(
    dataset: SourceT, examples: int, seed: int
) -> tuple[SourceT, SourceT]:
    """Holds out `validation_rows` of a set; returns the others and those."""
    return divide(dataset, validation_rows(dataset, examples, seed))


def validation_rows(dataset: Source, examples: int, seed: int) -> NDArray[np.int64]:
    """Chooses rows to hold out, the same share of every class to one example, sorted.

    Reads labels only; the same seed chooses the same rows.

    Raises:
        ValueError: `examples` is negative or leaves no training data.
    """
    return stratified_indices(dataset.labels, examples, seed)


def divide(dataset: SourceT, held_out: ArrayLike) -> tuple[SourceT, SourceT]:
    """All rows of a set but some, and those; each in the order of the set."""
    rows = np.asarray(held_out, np.int64)
    kept = np.setdiff1d(np.arange(len(dataset)), rows)
    return dataset.take(kept), dataset.take(rows)


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
