"""Data sets by name."""

import difflib
import os

from jaxrobust.data import _local, _tfds
from jaxrobust.data._dataset import Dataset

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
            TFDS image classification set.
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
    `test/CLASS/IMAGE`, or only `CLASS/IMAGE`; classes are numbered in sorted order.
    Where there is no division into train and test, a fifth of each class, always the
    same, is the test split.

    Raises:
        FileNotFoundError: the data are not there; says how to prepare them.
        ValueError: an unknown name or split, or data that are no image set.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    for argument, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{argument} must be at least 1 or None, got {value}")
    if channels not in (0, 3):
        raise ValueError(f"channels must be 0 (as stored) or 3, got {channels}")
    found = _load(name, split, image_size, data_dir, limit)
    return _local.to_rgb(found) if channels else found


def _load(
    name: str,
    split: str,
    image_size: int | None,
    data_dir: os.PathLike[str] | str | None,
    limit: int | None,
) -> Dataset:
    kind, _, rest = name.partition(":")
    if name == "digits":
        return _local.finish(_local.load_digits(split), image_size, limit)
    if kind == "npz":
        return _local.finish(_local.load_npz(rest, split), image_size, limit)
    if kind == "folder":
        return _local.load_folder(rest, split, image_size, limit)
    if name in _TFDS_NAMES or kind == "tfds":
        return _tfds.load_prepared(
            rest or name,
            split,
            data_dir=data_dir,
            image_size=image_size or _DEFAULT_SIZE.get(rest or name),
            limit=limit,
        )
    raise ValueError(_unknown(name))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, names(), 1, 0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"unknown data set {name!r}.{hint} Known: {', '.join(names())}; npz:PATH and "
        "folder:PATH for your own images, tfds:NAME for other prepared TFDS sets"
    )
