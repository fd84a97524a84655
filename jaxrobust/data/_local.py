"""Sets that need no preparation: scikit-learn's digits, and a user's file or folder."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from jaxrobust.data import _image_folder, _images, _npz
from jaxrobust.data._dataset import Dataset, own_split, spread
from jaxrobust.data._names import printable
from jaxrobust.runtime import files

_DIGITS_TEST = 360
_RULES = {"folder": _image_folder.RULE, "npz": _npz.RULE}


def load_digits(split: str) -> Dataset:
    """Scikit-learn's 1,797 scans of 8x8 pixels, 1,437 to train and 360 to test.

    The set has no official division; ours is stratified and fixed in the code. The
    original levels 0 to 16 become 0 to 255.
    """
    from sklearn import datasets

    digits: Any = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    names = tuple(str(name) for name in digits.target_names)
    rows = own_split(labels, split, _DIGITS_TEST)
    return Dataset(images[rows], labels[rows], names)


def locate(kind: str, path: str) -> epath.Path:
    """Finds a user's file (npz) or folder.

    Raises:
        FileNotFoundError: it is not there, in three lines.
        ValueError: no path, or a folder where a file is wanted or the reverse.
    """
    noun, other, other_kind = "file", "folder", "folder"
    if kind == "folder":
        noun, other, other_kind = "folder", "file", "npz"
    if not path.strip():
        raise ValueError(f"data set '{kind}:' names no {noun}: write {kind}:PATH")
    place = files.expand(path)
    try:
        if place.is_dir() if kind == "folder" else place.is_file():
            return place
        exists = place.exists()
    except (OSError, ValueError) as error:  # a name no file can have, or no permission
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"data set '{kind}:{printable(path)}' cannot be looked at: {reason}"
        ) from None
    if exists:
        raise ValueError(
            f"data set '{kind}:{printable(path)}' is a {other}, not a {noun}; "
            f"a {other} is {other_kind}:PATH"
        )
    raise FileNotFoundError(
        f"data set '{kind}:{printable(path)}' is not there: no such {noun} as "
        f"{printable(str(place.resolve()))}.\n{_RULES[kind]}\n"
        f"Write data.name as {kind}:PATH with the path of yours."
    )


def finish(
    dataset: Dataset, *, image_size: int | None, channels: int, limit: int | None
) -> Dataset:
    """Takes `limit` examples at even distances; resizes them, copies grey to RGB."""
    dataset = dataset.take(spread(len(dataset), limit))
    *side, stored = dataset.shape
    images = dataset.images
    if image_size is not None and side != [image_size, image_size]:
        images = np.empty((len(dataset), image_size, image_size, stored), "u1")
        for place, image in zip(images, dataset.images, strict=True):
            place[:] = _images.resize(image, image_size)
    if channels and stored != 3:
        if stored != 1:
            raise ValueError(
                f"channels=3 copies grey images, but these have {stored} channels"
            )
        images = np.repeat(images, 3, axis=-1)
    return dataclasses.replace(dataset, images=images)
