"""Image sets that are read when asked: in memory, or encoded on disk."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxrobust.data import _images
from jaxrobust.data._dataset import (
    Dataset,
    check_labels,
    checked_rows,
    stratified_indices,
)
from jaxrobust.data._machine import in_threads, memory

_CHUNK = 256


class Source(Protocol):
    """Labelled images of one shape, read row by row.

    A `Dataset` is one whose images are in memory. Reading may happen in several threads
    at once, and a source can be pickled, so that other processes read too.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        ...

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels `[N]`, 0 to K - 1; the first use may read every record."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K class names, in label order."""
        ...

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all images as uint8, known before they are read."""
        ...

    def __len__(self) -> int:
        """The number of images N."""
        ...

    def read(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """The images at `indices`, uint8 `[n, H, W, C]`, in that order."""
        ...

    def take(self, indices: ArrayLike) -> Self:
        """The examples at `indices`, in that order, as a source; reads nothing."""
        ...

    def load(self) -> Dataset:
        """All of it, in memory."""
        ...


class Store(Protocol):
    """Encoded images and their labels by row, as they lie on disk; can be pickled."""

    @property
    def name(self) -> str:
        """What `data.load` calls the set."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, in label order."""
        ...

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def fetch(self, rows: Sequence[int]) -> Sequence[tuple[bytes, int]]:
        """The content of the image files of some rows, and their labels."""
        ...

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The labels of some rows."""
        ...

    def describe(self, row: int) -> str:
        """A row in words, for errors."""
        ...


SourceT = TypeVar("SourceT", bound=Source)


@dataclasses.dataclass(eq=False)
class EncodedSource:
    """Images that stay encoded on disk until they are read.

    Attributes:
        store: where the images are.
        rows: the rows of `store` that belong to the set, in its order.
        stored_shape: `[H, W, C]` of every image once decoded and resized.
        size: None, or the side to resize to.
        channels: 3 copies grey images to three channels; 0 keeps what there is.
        known_labels: of these rows, once they are known.
    """

    store: Store
    rows: NDArray[np.int64]
    stored_shape: tuple[int, int, int]
    size: int | None
    channels: int
    known_labels: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        """The number of images N."""
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, stored = self.stored_shape
        return height, width, self.channels or stored

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K class names, in label order."""
        return self.store.class_names

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    @property
    def nbytes(self) -> int:
        """Bytes of all images as uint8, which no one has read yet."""
        height, width, channels = self.shape
        return len(self) * height * width * channels

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels `[N]`; the first use asks the store, which may read every record.

        Raises:
            ValueError: a label without a class name, or damaged records.
        """
        if self.known_labels is None:
            labels = self.store.labels(self.rows)
            check_labels(labels, self.num_classes)
            self.known_labels = labels
        return self.known_labels

    def read(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """The images at `indices`, uint8 `[n, H, W, C]`, decoded and resized now.

        Raises:
            ValueError: an image that cannot be read or whose size differs, by name.
        """
        rows = self.rows[checked_rows(indices, len(self))]
        images = np.empty((len(rows), *self.shape), np.uint8)
        self._decode(rows, images)
        return images

    def take(self, indices: ArrayLike) -> "EncodedSource":
        """The examples at `indices`, in that order; reads nothing."""
        rows = checked_rows(indices, len(self))
        known = None if self.known_labels is None else self.known_labels[rows]
        return dataclasses.replace(self, rows=self.rows[rows], known_labels=known)

    def load(self) -> Dataset:
        """Decodes all of it, in threads, into one array.

        Raises:
            ValueError: as `read`, and for more pixels than the machine has memory.
        """
        count = len(self)
        if self.nbytes > memory():
            raise ValueError(
                f"{self.store.name} has {self.nbytes / 2**30:.1f} GiB of pixels, more "
                f"than the {memory() / 2**30:.1f} GiB of memory; make the images "
                "smaller (image_size), take fewer (limit), or let them stream "
                "(--config.data.feed=stream; tests are read whole)"
            )
        images = np.empty((count, *self.shape), np.uint8)
        labels = np.empty(count, np.int64)  # as stored: a cast could make them fit

        def fill(positions: range) -> None:
            part = slice(positions.start, positions.stop)
            labels[part] = self._decode(self.rows[part], images[part])

        in_threads(fill, count, _CHUNK, f"loading {self.store.name}")
        check_labels(labels, self.num_classes)
        return Dataset(images, labels.astype(np.int32), self.class_names)

    def _decode(
        self, rows: NDArray[np.int64], images: NDArray[np.uint8]
    ) -> Sequence[int]:
        """Puts the images of some rows into `images`; returns their labels."""
        positions = rows.tolist()
        found = self.store.fetch(positions)
        for place, (row, (encoded, _)) in enumerate(zip(positions, found, strict=True)):
            image = _named(self.store, row, encoded, self.stored_shape[2], self.size)
            if image.shape != self.stored_shape:
                raise ValueError(
                    f"the images differ in size: {self.store.describe(row)} is "
                    f"{image.shape}, not {self.stored_shape}; pass image_size to "
                    "resize them"
                )
            images[place] = image  # one channel is copied to three
        return [label for _, label in found]


def open_store(
    store: Store,
    rows: NDArray[np.int64],
    *,
    shape: tuple[int | None, int | None, int | None],
    size: int | None,
    channels: int,
) -> EncodedSource:
    """Opens rows of a store; reads one image where nothing else tells their size.

    Args:
        store: as of `EncodedSource`, and so are `rows`, `size` and `channels`.
        rows: see there.
        shape: `[H, W, C]` of the stored images; an unknown length is None.
        size: see there.
        channels: see there.

    Raises:
        ValueError: the first image cannot be read.
    """
    stored = shape[2] or 3
    height, width = (size, size) if size else shape[:2]
    if len(rows) and (height is None or width is None):
        first = int(rows[0])
        [(encoded, _)] = store.fetch([first])
        height, width = _named(store, first, encoded, stored, size).shape[:2]
    return EncodedSource(store, rows, (height or 0, width or 0, stored), size, channels)


def split_validation(
    dataset: SourceT, examples: int, seed: int
) -> tuple[SourceT, SourceT]:
    """Holds out a part of a training set, the same share of every class.

    Args:
        dataset: what to divide, in memory or not; untouched.
        examples: how many examples to hold out, 0 to N - 1.
        seed: chooses which; the same seed gives the same division.

    Returns:
        `(train, validation)`: disjoint, together the whole data set, each in the
        order of `dataset`. Class shares are exact to one example.

    Raises:
        ValueError: `examples` is negative or leaves no training data.
    """
    return divide(dataset, validation_rows(dataset, examples, seed))


def validation_rows(dataset: Source, examples: int, seed: int) -> NDArray[np.int64]:
    """The rows that `split_validation` holds out, sorted; reads labels only."""
    return stratified_indices(dataset.labels, examples, seed)


def divide(dataset: SourceT, held_out: ArrayLike) -> tuple[SourceT, SourceT]:
    """All rows of a set but some, and those; each in the order of the set."""
    rows = np.asarray(held_out, np.int64)
    kept = np.setdiff1d(np.arange(len(dataset)), rows)
    return dataset.take(kept), dataset.take(rows)


def _named(
    store: Store, row: int, encoded: bytes, channels: int, size: int | None
) -> NDArray[np.uint8]:
    try:
        return _images.decode(encoded, channels, size)
    except ValueError as error:
        raise ValueError(f"{store.describe(row)}: {error}") from None
