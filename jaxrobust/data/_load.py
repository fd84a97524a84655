"""Data sets by name."""

import dataclasses
import functools
import importlib.util
import os
import pathlib
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Float

from jaxrobust import named_code
from jaxrobust._checks import did_you_mean
from jaxrobust.data import _image_folder, _images, _npz, _tfds
from jaxrobust.data._dataset import Dataset, LoadOptions, own_split, spread
from jaxrobust.data._names import printable
from jaxrobust.data._source import Source
from jaxrobust.runtime import files

# Of sets whose images differ in size.
_DEFAULT_SIZE = {"caltech101": 224, "caltech101_90_10": 224, "caltech256": 224}
_DIGITS_TEST = 360
_RULES = {"folder": _image_folder.RULE, "npz": _npz.RULE}


def names() -> tuple[str, ...]:
    """The data sets that `load` knows by name."""
    return ("digits", *_tfds.FILES)


def load(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    channels: int = 0,
    data_dir: os.PathLike[str] | str | None = None,
    limit: int | None = None,
) -> Dataset:
    """Loads a split of a data set into host memory.

    Args:
        name: one of `names()`; `npz:PATH` or `folder:PATH` for a user's own images
            (forms below); `tfds:NAME` or `tfds:NAME/CONFIG` for any other prepared
            TFDS image classification set; `package.module:function` for a function of
            your own, split -> `Dataset`, which is imported and called.
        split: 'train' or 'test'.
        image_size: side of the square images to make: the shorter side is resized
            to it (bilinear, antialiased), then the centre is cut out. None keeps the
            images as they are (224 for caltech101, caltech101_90_10 and caltech256,
            whose images differ in size).
        channels: 3 copies grey images to three channels; 0 keeps what there is.
        data_dir: where TFDS data lie; None means `TFDS_DATA_DIR`, or else
            ~/tensorflow_datasets.
        limit: how many examples to load, at even distances; None means all.

    Returns:
        The data set, in stored order. A TFDS set without a 'test' split gives its
        'validation' split as 'test' (tiny_imagenet), and so does imagenet2012, whose
        test split has no labels.

    Own images: an .npz holds `x_train, y_train, x_test, y_test`, or `images` and
    `labels`, images `[N, H, W, C]` or `[N, H, W]` uint8, or floating in [0, 1] (rounded
    to 8 bits), and maybe `class_names`. A folder holds `train/CLASS/IMAGE` and
    `test/CLASS/IMAGE` (`val` where there is no `test`), or only `CLASS/IMAGE`; classes
    are numbered in the order of their text ('10' before '2'), images in folders below
    a class folder belong to it, hidden files and folders and what is no image do not
    count. EXIF's rotation is applied, transparency dropped, of an animation the first
    picture taken, more than 8 bits per channel refused. Where there is no division
    into train and test, a fifth of each class, always the same, is the test split.
    What is left out or changed is logged as a warning.

    Raises:
        FileNotFoundError: the data are not there; says how to prepare them.
        ValueError: an unknown name or split, or data that are no image set.
    """
    where: Any = {"image_size": image_size, "channels": channels, "data_dir": data_dir}
    return open_source(name, split, limit=limit, **where).load()


def open_source(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    channels: int = 0,
    data_dir: os.PathLike[str] | str | None = None,
    limit: int | None = None,
) -> Source:
    """Opens what `load` loads, which has the same arguments and errors.

    Returns:
        The rows of `load`, in its order: a `Dataset` of digits and .npz files, which
        are in memory anyway; TFDS sets and folders stay encoded on disk, decoded and
        resized as they are read. Labels of a TFDS set cost one pass over its records
        at their first use, kept in `$XDG_CACHE_HOME/jaxrobust` (or ~/.cache).
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    for argument, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{argument} must be at least 1 or None, got {value}")
    if channels not in (0, 3):
        raise ValueError(f"channels must be 0 (as stored) or 3, got {channels}")
    found = _open(name, split, data_dir, LoadOptions(image_size, channels, limit))
    if limit is not None and limit > len(found):
        text = "%s: %d examples of the %s split asked for, it has %d"
        logging.warning(text, name, limit, split, len(found))
    return found


def _open(
    name: str, split: str, data_dir: os.PathLike[str] | str | None, wanted: LoadOptions
) -> Source:
    kind, _, rest = name.partition(":")
    if name == "digits":
        return _finish(_digits(split), wanted)
    if kind == "npz":
        return _finish(_npz.load_npz(name, _locate(kind, rest), split), wanted)
    if kind == "folder":
        return _image_folder.open_folder(name, _locate(kind, rest), split, wanted)
    if name in _tfds.FILES or kind == "tfds":
        name = rest or name
        size = wanted.image_size or _DEFAULT_SIZE.get(name)
        wanted = wanted._replace(image_size=size)
        return _tfds.open_prepared(name, split, data_dir, wanted)
    if named_code.names(name):  # checked last: `npz:PATH` may have the same form
        found = named_code.load("data set", name)(split)
        if not isinstance(found, Dataset):
            raise TypeError(
                f"data set {name!r} must return a jaxrobust.data.Dataset, got "
                f"{type(found).__name__}."
            )
        return _finish(found, wanted)
    near = did_you_mean(name, names(), 0.5)
    hint = f" {near}" if near else ""
    raise ValueError(
        f"unknown data set {name!r}.{hint} Known: {', '.join(names())}; npz:PATH and "
        "folder:PATH for your own images, tfds:NAME for other prepared TFDS sets"
    )


def _digits(split: str) -> Dataset:
    """Scikit-learn's 1,797 scans of 8x8 pixels, 1,437 to train and 360 to test.

    The set has no official division; ours is stratified and fixed in the code. The
    original levels 0 to 16 become 0 to 255.
    """
    rows = _digit_rows()
    levels, labels = rows[:, :-1].reshape(-1, 8, 8, 1), rows[:, -1].astype(np.int32)
    images = np.rint(levels * (255 / 16)).astype(np.uint8)
    names = tuple(str(number) for number in range(10))
    return Dataset(images, labels, names).take(own_split(labels, split, _DIGITS_TEST))


@functools.cache
def _digit_rows() -> Float[np.ndarray, "1797 65"]:
    """Levels and label of each scan, read where scikit-learn keeps them.

    Importing it takes longer than all else that a small run imports.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "data set 'digits' comes with scikit-learn: pip install scikit-learn"
        )
    path = pathlib.Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn import datasets  # it has moved

    images, labels = datasets.load_digits(return_X_y=True)
    return np.column_stack([images, labels])


def _locate(kind: str, path: str) -> epath.Path:
    """Finds a user's file (npz) or folder; says in three lines what is not there."""
    noun, other = ("folder", "file") if kind == "folder" else ("file", "folder")
    other_kind = "npz" if kind == "folder" else "folder"
    if not path.strip():
        raise ValueError(f"data set '{kind}:' names no {noun}: write {kind}:PATH")
    shown = f"data set '{kind}:{printable(path)}'"
    place = files.expand(path)
    try:
        if place.is_dir() if kind == "folder" else place.is_file():
            return place
        exists = place.exists()
    except (OSError, ValueError) as error:  # a name no file can have, or no permission
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{shown} cannot be looked at: {reason}") from None
    if exists:
        raise ValueError(
            f"{shown} is a {other}, not a {noun}; a {other} is {other_kind}:PATH"
        )
    raise FileNotFoundError(
        f"{shown} is not there: no such {noun} as "
        f"{printable(str(place.resolve()))}.\n{_RULES[kind]}\n"
        f"Write data.name as {kind}:PATH with the path of yours."
    )


def _finish(dataset: Dataset, wanted: LoadOptions) -> Dataset:
    """Takes the wanted examples; resizes them, copies grey to RGB."""
    dataset = dataset.take(spread(len(dataset), wanted.limit))
    *side, stored = dataset.shape
    images, size = dataset.images, wanted.image_size
    if size is not None and side != [size, size]:
        images = np.empty((len(dataset), size, size, stored), "u1")
        for place, image in zip(images, dataset.images, strict=True):
            place[:] = _images.resize(image, size)
    if wanted.channels and stored != 3:
        if stored != 1:
            raise ValueError(
                f"channels=3 copies grey images, but these have {stored} channels"
            )
        images = np.repeat(images, 3, axis=-1)
    return dataclasses.replace(dataset, images=images)
