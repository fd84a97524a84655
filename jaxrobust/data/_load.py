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
    "tiny_imagenet",
)
_DEFAULT_SIZE = {"caltech101": 224}


def names() -> tuple[str, ...]:
    """The data sets that `load` knows by name."""
    return ("digits", *_TFDS_NAMES)


def load(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    data_dir: os.PathLike[str] | str | None = None,
    limit: int | None = None,
) -> Dataset:
    """Loads a split of a data set into host memory.

    Args:
        name: one of `names()`.
        split: 'train' or 'test'.
        image_size: side of the square images to make: the shorter side is resized
            to it (bilinear, antialiased), then the centre is cut out. None keeps the
            images as they are (caltech101, whose images differ in size: 224).
        data_dir: where TFDS data lie; None means `TFDS_DATA_DIR`, or else
            ~/tensorflow_datasets.
        limit: how many examples to load, at even distances; None means all.

    Returns:
        The data set, in stored order.

    Raises:
        FileNotFoundError: the data are not there; says how to prepare them.
        ValueError: an unknown name or split, or data that are no image set.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    for argument, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{argument} must be at least 1 or None, got {value}")
    if name == "digits":
        return _local.finish(_local.load_digits(split), image_size, limit)
    if name in _TFDS_NAMES:
        return _tfds.load_prepared(
            name,
            split,
            data_dir=data_dir,
            image_size=image_size or _DEFAULT_SIZE.get(name),
            limit=limit,
        )
    raise ValueError(_unknown(name))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, names(), 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown data set {name!r}{hint} Known: {', '.join(names())}"
