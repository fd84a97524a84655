"""Data sets by name."""

import difflib
import os
from typing import Any

from absl import logging

from jaxrobust import named_code
from jaxrobust.data import _image_folder, _local, _npz, _tfds
from jaxrobust.data._dataset import Dataset
from jaxrobust.data._source import Source

_TFDS_NAMES = (
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "svhn_cropped",
    "caltech101",
    "caltech101_90_10",
    "caltech256",
    "tiny_imagenet",
)
# Of sets whose images differ in size.
_DEFAULT_SIZE = {"caltech101": 224, "caltech101_90_10": 224, "caltech256": 224}


def names() -> tuple[str, ...]:
    """The data sets that `load` knows by name."""
    return ("digits", *_TFDS_NAMES)


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
        'validation' split as 'test' (tiny_imagenet).

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
    common = {"image_size": image_size, "channels": channels, "limit": limit}
    found = _open(name, split, data_dir, common)
    if limit is not None and limit > len(found):
        text = "%s: %d examples of the %s split asked for, it has %d"
        logging.warning(text, name, limit, split, len(found))
    return found


def _open(
    name: str,
    split: str,
    data_dir: os.PathLike[str] | str | None,
    common: dict[str, Any],
) -> Source:
    kind, _, rest = name.partition(":")
    if name == "digits":
        return _local.finish(_local.load_digits(split), **common)
    if kind == "npz":
        found = _npz.load_npz(name, _local.locate(kind, rest), split)
        return _local.finish(found, **common)
    if kind == "folder":
        place = _local.locate(kind, rest)
        return _image_folder.open_folder(name, place, split, **common)
    if name in _TFDS_NAMES or kind == "tfds":
        common["image_size"] = common["image_size"] or _DEFAULT_SIZE.get(rest or name)
        return _tfds.open_prepared(rest or name, split, data_dir=data_dir, **common)
    if named_code.names(name):  # checked last: `npz:PATH` may have the same form
        found = named_code.load("data set", name)(split)
        if not isinstance(found, Dataset):
            raise TypeError(
                f"data set {name!r} must return a jaxrobust.data.Dataset, got "
                f"{type(found).__name__}."
            )
        return _local.finish(found, **common)
    near = difflib.get_close_matches(name, names(), 1, 0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"unknown data set {name!r}.{hint} Known: {', '.join(names())}; npz:PATH and "
        "folder:PATH for your own images, tfds:NAME for other prepared TFDS sets"
    )
