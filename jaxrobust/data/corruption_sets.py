"""Published sets of corrupted images, in folders that a user has.

    CIFAR-10-C, CIFAR-100-C   NAME.npy, uint8 [5 N, H, W, C], and labels.npy
    ImageNet-C, 3DCC          NAME/SEVERITY/CLASS/IMAGE, maybe in folders of groups

Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261; 3DCC: Kar et al., CVPR 2022,
arXiv 2203.01441.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int
from numpy.typing import NDArray

from jaxrobust.data import _images, _reading
from jaxrobust.data._dataset import Dataset, as_labels
from jaxrobust.data._machine import in_threads
from jaxrobust.data._names import normal, printable, some
from jaxrobust.data._reading import named
from jaxrobust.runtime import files

SEVERITIES, _LABELS = 5, "labels"
_SYNSET = re.compile(r"n\d{8}")
_LARGEST = 1 << 40  # bytes of an array, of which only the rows asked for are read
_CHUNK = 64
_RULE = (
    "A set of corruptions is a folder with NAME.npy and labels.npy (as CIFAR-10-C), or "
    "with NAME/SEVERITY/CLASS/IMAGE (as ImageNet-C)"
)

Rows = Int[np.ndarray, "n"]


class CorruptedImages(Protocol):
    """N images under each of some corruptions, at severities 1 to 5."""

    @property
    def names(self) -> Sequence[str]:
        """The corruptions that the folder has, sorted."""
        ...

    @property
    def labels(self) -> Int[np.ndarray, "N"]:
        """The classes of the images, the same under each corruption."""
        ...

    def images(self, name: str, severity: int, rows: Rows) -> NDArray[np.uint8]:
        """Reads some of the images, uint8 [n, H, W, C]."""
        ...


def corruption_names(folder: os.PathLike[str] | str) -> list[str]:
    """Returns the names of the corruptions in a folder, sorted.

    Raises:
      ValueError: for what is no folder of corruptions on this machine.
    """
    return list(_found(files.expand(folder)))


def open_corruption_set(
    folder: os.PathLike[str] | str, like: Dataset, names: Sequence[str] = ()
) -> CorruptedImages:
    """Opens a published set of corrupted images, and looks at its headers alone.

    Nothing in it is run: arrays are mapped into memory as plain numbers, never
    unpickled, and what does not fit is an error that names the file.

    Args:
      folder: on this machine; either form, see the module.
      like: the test images that the network takes: the shape that arrays must have (a
        folder's image files are resized where it is square, and that is told) and the
        classes. Folders of classes are called as its classes are, or, of as many
        classes, as WordNet's synsets, which ImageNet numbers in sorted order.
      names: the corruptions that will be asked for; all that are there by default.

    Raises:
      ValueError: for what is no such folder, a corruption that it lacks, arrays of
        another shape or dtype, labels that are no class, or unknown class folders.
    """
    root = files.expand(folder)
    found = _found(root)
    for name in names:
        if name not in found:
            shown = printable(str(root))
            raise ValueError(f"{shown} has no {name!r}; it has {some(found, 20)}.")
    wanted = {name: found[name] for name in names or found}
    labels = root / f"{_LABELS}.npy"
    if next(iter(wanted.values())).suffix == labels.suffix:
        opened: CorruptedImages = _open_arrays(labels, wanted, like)
    else:
        opened = _open_folders(wanted, like)
    if (count := len(np.unique(opened.labels))) < like.num_classes:
        told = root, count, like.num_classes
        logging.warning("%s has images of %d of the %d classes alone", *told)
    return opened


def _found(root: epath.Path) -> dict[str, epath.Path]:
    """The corruptions in a folder: by name an array, or a folder of severities."""
    shown = printable(str(root))
    if files.is_remote(root) or not root.is_dir():
        raise ValueError(f"{shown} is no folder on this machine. {_RULE}.")
    arrays = [file for file, _ in _reading.entries(root) if file.endswith(".npy")]
    found = {file[:-4]: root / file for file in arrays}
    if found and _LABELS not in found:
        raise ValueError(f"{shown} has arrays, but no {_LABELS}.npy. {_RULE}.")
    found.pop(_LABELS, None)
    found = found or dict(_corruption_folders(root))
    if not found:
        raise ValueError(f"{shown} has no corruptions. {_RULE}.")
    return dict(sorted(found.items()))


@dataclasses.dataclass(frozen=True, eq=False)
class _Arrays:
    """As CIFAR-10-C: the severities of a corruption stand in one array."""

    arrays: Mapping[str, NDArray[np.uint8]]
    labels: NDArray[np.int32]

    @property
    def names(self) -> Sequence[str]:
        return list(self.arrays)

    def images(self, name: str, severity: int, rows: Rows) -> NDArray[np.uint8]:
        return np.asarray(self.arrays[name][(severity - 1) * len(self.labels) + rows])


def _open_arrays(
    file: epath.Path, wanted: Mapping[str, epath.Path], like: Dataset
) -> _Arrays:
    labels = _mapped(file)
    shown = printable(str(file))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        told = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"{shown} must be integers [N] or [5 N], got {told}.")
    arrays = {name: _mapped(path) for name, path in wanted.items()}
    for name, path in wanted.items():
        _check_array(path, arrays[name], like.shape)
    counts = {len(array) for array in arrays.values()}
    total, *others = sorted(counts)
    if others:
        told = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise ValueError(f"{printable(str(file.parent))}: arrays differ: {told}.")
    count = total // SEVERITIES
    if len(labels) == total:
        parts = labels.reshape(SEVERITIES, count)
        if (parts != parts[:1]).any():
            raise ValueError(
                f"{shown}: the labels of the five severities differ, so the images are "
                "not the same ones five times, in one order."
            )
        labels = parts[0]
    if len(labels) != count:
        told = f"has {len(labels)} labels for arrays of {total} images"
        raise ValueError(f"{shown} {told}: one for each, or for each of a severity.")
    with named(lambda: shown):
        return _Arrays(arrays, as_labels(np.asarray(labels), like.num_classes))


def _mapped(path: epath.Path) -> NDArray[Any]:
    """Maps an array of plain numbers; only what is asked for is read."""
    _reading.open_file(path, _LARGEST).close()  # a file, and no pipe
    with _reading.damage(f"{printable(str(path))} is no array of numbers"):
        return np.lib.format.open_memmap(path, mode="r")


def _check_array(path: epath.Path, array: NDArray[Any], shape: Sequence[int]) -> None:
    if array.dtype != np.uint8 or array.shape[1:] != tuple(shape):
        raise ValueError(
            f"{printable(str(path))} must be uint8 [5 N, H, W, C], H, W, C = "
            f"{tuple(shape)} as the test images, got {array.dtype} {array.shape}."
        )
    if not len(array) or len(array) % SEVERITIES:
        raise ValueError(
            f"{printable(str(path))} has {len(array)} images: the same ones at each of "
            "five severities make a multiple of 5."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Folders:
    """As ImageNet-C: a folder for each corruption, severity and class."""

    roots: Mapping[str, epath.Path]
    listed: Sequence[str]  # below each severity, CLASS/IMAGE
    labels: NDArray[np.int32]
    shape: tuple[int, int, int]

    @property
    def names(self) -> Sequence[str]:
        return list(self.roots)

    def images(self, name: str, severity: int, rows: Rows) -> NDArray[np.uint8]:
        place = self.roots[name] / str(severity)
        _check_same(place, self.listed)

        def read(part: slice) -> list[NDArray[np.uint8]]:
            numbers: list[int] = rows[part].tolist()
            return [self._read(place / self.listed[i]) for i in numbers]

        return np.stack(in_threads(read, len(rows), _CHUNK, f"{name} {severity}"))

    def _read(self, path: epath.Path) -> NDArray[np.uint8]:
        height, width, channels = self.shape
        encoded = _reading.read_file(path)
        with named(printable, str(path)):
            image = _images.decode(encoded, channels)
            if image.shape[:2] == (height, width):
                return image
            if height != width:
                told = f"{image.shape[0]}x{image.shape[1]} pixels"
                raise ValueError(f"it has {told}, the network takes {height}x{width}")
            return _images.resize(image, height)


def _corruption_folders(
    root: epath.Path, deeper: bool = True
) -> Iterator[tuple[str, epath.Path]]:
    """Yields folders that have severities, also from folders of groups (`blur`)."""
    seen = set()
    for folder in _reading.folders(root):
        place = root / folder
        if "1" in _reading.folders(place):
            found = [(normal(folder), place)]
        else:
            found = [*_corruption_folders(place, False)] if deeper else []
        for name, path in found:
            if name in seen:
                raise ValueError(f"{printable(str(root))} has {name!r} twice.")
            seen.add(name)
            yield name, path


def _open_folders(wanted: Mapping[str, epath.Path], like: Dataset) -> _Folders:
    for place in wanted.values():
        missing = {*map(str, range(1, SEVERITIES + 1))} - {*_reading.folders(place)}
        if missing:
            told = some(sorted(missing))
            raise ValueError(
                f"{printable(str(place))} has no severity {told}: unpack it whole."
            )
    first = next(iter(wanted.values())) / "1"
    listed = _listed(first)
    if not listed:
        raise ValueError(f"{printable(str(first))} has no images. {_RULE}.")
    known = _class_numbers(first, like.class_names)
    labels = [known[normal(path.partition("/")[0])] for path in listed]
    file = first / listed[0]
    with _reading.open_file(file) as stream, named(printable, str(file)):
        header = _images.header(stream)
    if (header.height, header.width) != like.shape[:2]:
        told = f"{header.height}x{header.width}", "x".join(map(str, like.shape[:2]))
        logging.warning("%s: images of %s are resized to %s", first.parent, *told)
    return _Folders(wanted, listed, np.array(labels, np.int32), like.shape)


def _listed(severity: epath.Path) -> list[str]:
    """The image files CLASS/IMAGE of one corruption at one severity."""
    return [
        path
        for folder in _reading.folders(severity)
        for path in _reading.walk(severity / folder, f"{folder}/")
        if path.lower().endswith(_images.SUFFIXES)
    ]


def _check_same(severity: epath.Path, listed: Sequence[str]) -> None:
    """Refuses a folder that lacks images, or has others: rows would not be the same."""
    if (found := _listed(severity)) != listed:
        missing, more = {*listed} - {*found}, {*found} - {*listed}
        told = f"has no {printable(min(missing))}" if missing else ""
        told = told or f"has {printable(min(more))}, which others do not have"
        raise ValueError(
            f"{printable(str(severity))} {told}: each corruption and severity must "
            "have the same images; unpack it whole."
        )


def _class_numbers(severity: epath.Path, class_names: Sequence[str]) -> dict[str, int]:
    """Class of each folder: by its name, or by its place among as many synsets."""
    found = [normal(name) for name in _reading.folders(severity)]
    if {*found} <= {*class_names}:
        return {name: number for number, name in enumerate(class_names)}
    if len(found) == len(class_names) and all(map(_SYNSET.fullmatch, found)):
        return {name: number for number, name in enumerate(sorted(found))}
    odd = some(sorted({*found} - {*class_names}))
    raise ValueError(
        f"{printable(str(severity))} has folders of classes ({odd}) that the test set "
        f"does not name; its classes are {some(class_names)}. Call the folders so, or "
        f"give as many synsets (n01440764 ...) as it has classes."
    )
