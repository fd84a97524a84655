"""Extra training images in an .npz file, and a set that they are joined to."""

import dataclasses
import os
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import ArrayLike, NDArray

from jaxrobust.data import _npz, _reading
from jaxrobust.data._dataset import Dataset, checked_rows
from jaxrobust.data._machine import memory
from jaxrobust.data._names import printable, some
from jaxrobust.data._source import Source
from jaxrobust.runtime import files, reading

_NAMES = ("image", "label")


def load_extra(path: os.PathLike[str] | str, like: Source) -> Dataset:
    """Reads extra images of the classes of a set, with labels of their own.

    Generated ones, say: the files of Gowal et al. (NeurIPS 2021, arXiv 2110.09468) and
    Wang et al. (ICML 2023, arXiv 2302.04638) are of this form.

    Args:
        path: an .npz with `image`, uint8 `[N, H, W, C]`, and `label`, integers `[N]`.
            It is read as data: Python objects in it are refused.
        like: the set that they are added to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: arrays that are missing, of another kind, larger than half of the
            memory, or that do not fit the set.
    """
    place = epath.Path(files.expand(path))
    if not place.is_file():
        raise FileNotFoundError(
            f"there is no file of extra images {printable(str(place))}; set "
            "--config.data.extra.file to an .npz with `image` and `label`."
        )
    limit = max(memory() // 2, _reading.SMALL)
    with _reading.readable(place):
        found = reading.read_npz(place, limit, _NAMES)
    with _reading.named("extra images {}".format, printable(str(place))):
        if missing := [name for name in _NAMES if name not in found]:
            raise ValueError(f"there is no array {some(missing)}")
        return _checked(found["image"], found["label"], like)


def _checked(images: NDArray[Any], labels: NDArray[Any], like: Source) -> Dataset:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"image must be uint8 [N, H, W, C], got {images.dtype} {images.shape}"
        )
    if images.shape[1:] != like.shape:
        raise ValueError(
            f"image has images of {images.shape[1:]}, the data set of {like.shape}"
        )
    known = _npz.checked_labels(labels, "label")
    if known.shape != images.shape[:1]:
        raise ValueError(
            f"label must have shape {images.shape[:1]}, one per image, got "
            f"{known.shape}"
        )
    if not len(images):
        raise ValueError("image has no images")
    if known.max() >= like.num_classes:
        raise ValueError(
            f"label must be below {like.num_classes}, the classes of the data set, "
            f"got {known.max()}"
        )
    return Dataset(images, known.astype(np.int32), like.class_names)


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """The rows of a set, and after them those of `more`; read as a `Source` is."""

    first: Source
    more: Dataset

    def __len__(self) -> int:
        """The number of images of both."""
        return len(self.first) + len(self.more)

    @property
    def nbytes(self) -> int:
        """Bytes of all images as uint8."""
        return self.first.nbytes + self.more.nbytes

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels of both, `[N]`."""
        return np.concatenate([self.first.labels, self.more.labels])

    def read(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """The images at `indices`, in that order, `[n, H, W, C]`."""
        rows = checked_rows(indices, len(self))
        late = rows >= len(self.first)
        images = np.empty((len(rows), *self.more.shape), np.uint8)
        images[~late] = self.first.read(rows[~late])
        images[late] = self.more.read(rows[late] - len(self.first))
        return images

    def load(self) -> Dataset:
        """Both in one array."""
        first = self.first.load()
        images = np.concatenate([first.images, self.more.images])
        return Dataset(images, self.labels, self.more.class_names)
