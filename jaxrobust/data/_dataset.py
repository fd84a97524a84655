"""The data set on the host, and which of its rows to take."""

import dataclasses
import operator
from typing import NamedTuple, Self

import numpy as np
from absl import logging
from numpy.typing import ArrayLike, NDArray

from jaxrobust.data._names import some

_SPLIT_SEED = 0  # of the test splits that we make


class LoadOptions(NamedTuple):
    """What is asked of every kind of set, as `data.load` describes it."""

    image_size: int | None
    channels: int
    limit: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in host memory.

    Attributes:
        images: uint8 `[N, H, W, C]`, 0 to 255.
        labels: int32 `[N]`, 0 to K - 1.
        class_names: K names, in label order.

    Raises:
        TypeError: images are not uint8 or labels not int32.
        ValueError: shapes do not fit together or a label has no class name.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses arrays that are not a labelled image set."""
        if self.images.dtype != np.uint8:
            raise TypeError(f"images must be uint8, got {self.images.dtype}")
        if self.images.ndim != 4:
            raise ValueError(f"images must be [N, H, W, C], got {self.images.shape}")
        if self.labels.dtype != np.int32:
            raise TypeError(f"labels must be int32, got {self.labels.dtype}")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must have shape {self.images.shape[:1]}, one per image, "
                f"got {self.labels.shape}"
            )
        as_labels(self.labels, self.num_classes)

    def __len__(self) -> int:
        """The number of images N."""
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def take(self, indices: ArrayLike) -> Self:
        """The examples at `indices` (integers), in that order, as a new data set."""
        at = checked_rows(indices, len(self))
        return dataclasses.replace(self, images=self.images[at], labels=self.labels[at])

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.images.nbytes

    def read(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """The images at `indices` (integers), in that order, `[n, H, W, C]`."""
        return self.images[checked_rows(indices, len(self))]

    def load(self) -> Self:
        """Itself: it is in memory already, unlike other sources."""
        return self


def checked_rows(indices: ArrayLike, total: int) -> NDArray[np.integer]:
    """Returns `indices` as an array; refuses what is no list of rows below `total`."""
    rows = np.asarray(indices)
    if rows.size == 0:
        rows = rows.astype(np.int64)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"indices must be a list of integers, got {rows.dtype} {rows.shape}"
        )
    if rows.size and (rows.min() < 0 or rows.max() >= total):
        raise ValueError(
            f"indices must be between 0 and {total - 1}, "
            f"got {rows.min()} to {rows.max()}"
        )
    return rows


def as_labels(labels: NDArray[np.integer], num_classes: int) -> NDArray[np.int32]:
    """Labels as they are kept; one without a class name is refused before the cast."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels must be between 0 and {num_classes - 1} (one class name "
            f"each), got {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int32, copy=False)


def stratified_indices(
    labels: NDArray[np.int32], examples: int, seed: int
) -> NDArray[np.int64]:
    """Chooses `examples` of the rows, the same share of every class, sorted."""
    examples, total = operator.index(examples), len(labels)
    if not 0 <= examples < max(total, 1):
        raise ValueError(
            f"examples must be between 0 and {max(total - 1, 0)} (the data set has "
            f"{total}), got {examples}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(total)
    counts = np.bincount(labels, minlength=1)
    # Largest remainders: floors first, then one more for the classes cut the most.
    quotas, remainders = np.divmod(counts * examples, max(total, 1))
    most_cut = np.argsort(-remainders, kind="stable")[: examples - quotas.sum()]
    quotas[most_cut] += 1
    chosen = [order[labels[order] == c][:quota] for c, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen))


def own_split(
    labels: NDArray[np.int32], split: str, test: int | None = None
) -> NDArray[np.int64]:
    """Rows of the fixed stratified division of a set that has none.

    The test split has `test` examples; None means a fifth.
    """
    test = len(labels) // 5 if test is None else test
    test_rows = stratified_indices(labels, test, _SPLIT_SEED)
    rest = np.setdiff1d(np.arange(len(labels)), test_rows)
    if len(alone := np.setdiff1d(labels[test_rows], labels[rest])):
        text = "%d classes are in the test split alone, of so few images are they (%s)"
        logging.warning(text, len(alone), some(alone))
    return test_rows if split == "test" else rest


def spread(total: int, limit: int | None) -> NDArray[np.int64]:
    """All indices, or `limit` of them at even distances (sets sorted by class)."""
    if limit is None or limit >= total:
        return np.arange(total)
    return np.arange(limit) * total // limit
