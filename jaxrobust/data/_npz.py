"""A user's arrays in an .npz file."""

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from numpy.typing import NDArray

from jaxrobust.data import _names, _reading
from jaxrobust.data._dataset import Dataset, own_split
from jaxrobust.data._machine import memory
from jaxrobust.data._names import printable, some
from jaxrobust.runtime import reading

RULE = (
    "An .npz holds x_train, y_train, x_test, y_test, or images and labels "
    "(then a fixed fifth of each class is the test split), and maybe class_names."
)
# More classes than any set of images has; a larger label is a mistake.
MOST_CLASSES = 100_000
_MOST_CHANNELS = 32
_FIFTH = 5
_ROUNDING = 1e-6  # of float32 arithmetic about 0 and 1


def load_npz(name: str, file: epath.Path, split: str) -> Dataset:
    """Reads a user's arrays, in either form of `RULE`.

    Without `class_names` there are as many classes as the largest label of both splits
    says. Arguments are as of `data.load`, which also tells of the arrays.
    """
    limit = max(memory() // 2, _reading.SMALL)  # of bytes that the arrays may take
    with _reading.readable(file):
        keys = _keys(file, limit)
        own = {"images", "labels"} <= keys
        pair = ("images", "labels") if own else (f"x_{split}", f"y_{split}")
        for key in pair:
            if key not in keys:
                found = some(sorted(map(printable, keys)), 10)
                raise ValueError(
                    f"data set {name!r} has no array {key!r}; it has "
                    f"{found or 'none'}. {RULE}"
                )
        of_labels = ("labels",) if own else ("y_train", "y_test")
        wanted = (pair[0], *of_labels, "class_names")
        arrays = reading.read_npz(file, limit, wanted)
    with _reading.named("data set {!r}".format, name):
        images = _to_uint8(arrays[pair[0]], pair[0])
        if images.size and images.max() <= 1:
            text = "data set %r: %s has no value above 1 of 255, so all is black"
            logging.warning(f"{text}; images in [0, 1] are floating", name, pair[0])
        every = {k: checked_labels(arrays[k], k) for k in of_labels if k in arrays}
        names = _class_names(arrays.get("class_names"), every, name)
        labels = every[pair[1]].astype(np.int32)
        if len(images) != len(labels):
            raise ValueError(
                f"{pair[1]} must have shape {images.shape[:1]}, one per image of "
                f"{pair[0]}, got {labels.shape}"
            )
        if not len(images):
            raise ValueError(f"{pair[0]} has no images")
        if own and split == "test" and len(images) < _FIFTH:
            raise ValueError(
                f"images must be at least {_FIFTH} for a fifth of them to be the test "
                f"split, got {len(images)}"
            )
    found = Dataset(images, labels, names)
    return found.take(own_split(labels, split)) if own else found


def _keys(file: epath.Path, limit: int) -> set[str]:
    """The names of the arrays; refuses other kinds of file by their first bytes."""
    shown = printable(str(file))
    with reading.opened(file, limit) as stream:
        start = stream.read(6)
        advice = "np.savez(FILE, images=..., labels=...)"
        if start == b"\x93NUMPY":
            raise ValueError(
                f"{shown} is a single array (.npy); save all of them with {advice}"
            )
        if not start.startswith(b"PK"):
            raise ValueError(f"{shown} is no .npz file; save it with {advice}")
        packed = stream.seek(0, io.SEEK_END)
        with _reading.damage(f"{shown} is damaged"):
            members = zipfile.ZipFile(stream).infolist()
    _reading.require_density(shown, packed, sum(one.file_size for one in members))
    return {member.filename.removesuffix(".npy") for member in members}


def _to_uint8(images: NDArray[Any], key: str) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ValueError(f"{key} must be [N, H, W, C] or [N, H, W], got {images.shape}")
    _, height, width, channels = images.shape
    if channels not in (1, 3) and images.shape[1] in (1, 3):
        raise ValueError(
            f"{key} must be [N, H, W, C] with the channels last, got {images.shape}; "
            "transpose it with (0, 2, 3, 1)"
        )
    if not (height and width and 1 <= channels <= _MOST_CHANNELS):
        raise ValueError(
            f"{key} must be [N, H, W, C] with 1 to {_MOST_CHANNELS} channels, got "
            f"{images.shape}"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        hint = f"images of 0 to 255 become uint8 with {key}.astype(np.uint8)"
        if images.dtype == bool:
            hint = f"black and white becomes uint8 with {key} * np.uint8(255)"
        raise ValueError(
            f"{key} must be uint8, or floating in [0, 1], got {images.dtype}: {hint}"
        )
    if images.size:
        _check_range(float(images.min()), float(images.max()), key)
    found = np.empty(images.shape, np.uint8)
    for place, image in zip(found, images, strict=True):
        # Not in float16, whose 255 levels are not exact.
        place[:] = np.rint(image.astype(np.float64) * 255)
    return found


def _check_range(low: float, high: float, key: str) -> None:
    """Refuses floating images that are not in [0, 1], up to rounding."""
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:  # false for NaN
        return
    hint = ""
    if low >= -1 - _ROUNDING and high <= 1 + _ROUNDING:
        hint = f"; images in [-1, 1] become such with ({key} + 1) / 2"
    elif low >= 0 and high <= 255:
        hint = f"; images of 0 to 255 become uint8 with {key}.astype(np.uint8)"
    elif math.isfinite(low) and math.isfinite(high):
        hint = "; undo the normalisation: it belongs into the model"
    raise ValueError(
        f"{key} is floating, so its values must be finite and in [0, 1], got "
        f"{low:g} to {high:g}{hint}"
    )


def checked_labels(labels: NDArray[Any], key: str) -> NDArray[np.integer]:
    """Returns class indices as they are stored; refuses what a cast would change."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        hint = ""
        if labels.ndim == 2 and labels.shape[0] == 1:
            hint = "; it is flat with labels.reshape(-1)"
        elif labels.ndim == 2:
            hint = "; one-hot labels become indices with labels.argmax(1)"
        elif labels.ndim == 1 and np.issubdtype(labels.dtype, np.floating):
            hint = "; whole numbers become integers with labels.astype(int)"
        elif labels.ndim == 1:
            hint = "; names become indices with np.unique(labels, return_inverse=True)"
        raise ValueError(
            f"{key} must be integers [N], one class index per image, "
            f"got {labels.dtype} {labels.shape}{hint}"
        )
    if labels.size and labels.min() < 0:
        raise ValueError(f"{key} must be class indices from 0, got {labels.min()}")
    if labels.size and labels.max() >= MOST_CLASSES:
        raise ValueError(
            f"{key} must be class indices from 0, below {MOST_CLASSES:,}, got "
            f"{labels.max()}; np.unique(labels, return_inverse=True)[1] numbers "
            "classes from 0"
        )
    return labels


def _compare(train: NDArray[np.integer], test: NDArray[np.integer], name: str) -> None:
    """Refuses splits that are numbered differently; tells classes of test alone."""
    for one, other in ((train, test), (test, train)):
        if len(one) and one[0] == 1 and np.array_equal(one - 1, other):
            keys = ("y_train", "y_test") if one is train else ("y_test", "y_train")
            raise ValueError(
                f"the labels of {keys[0]} run from 1 to {one[-1]}, those of {keys[1]} "
                f"from 0 to {other[-1]}; classes are numbered from 0: subtract 1"
            )
    if len(train) and len(alone := np.setdiff1d(test, train)):
        text = "data set %r has no training images of %d classes of its test split (%s)"
        logging.warning(text, name, len(alone), some(alone))


def _class_names(
    given: NDArray[Any] | None, every: Mapping[str, NDArray[np.integer]], name: str
) -> tuple[str, ...]:
    """Returns the class names; without any, numbers up to the largest label.

    Refused are labels that start at 1, a label without a name, and names that are no
    list of text.
    """
    if given is not None and (given.ndim != 1 or given.dtype.kind not in "SUiu"):
        raise ValueError(
            f"class_names must be text [K], got {given.dtype} {given.shape}"
        )
    of_split = [np.unique(own) for own in every.values()]
    present = np.unique(np.concatenate(of_split))
    if not len(present):
        return ()
    if len(of_split) == 2:
        train, test = of_split
        _compare(train, test, name)
    low, high = int(present[0]), int(present[-1])
    count = high + 1 if given is None else len(given)
    if low == 1 and (given is None or high == count):
        raise ValueError(
            f"labels run from 1 to {high}; classes are numbered from 0: subtract 1"
            + (", or give class_names" if given is None else "")
        )
    if high >= count:
        raise ValueError(
            f"labels must be between 0 and {count - 1} (one of class_names each), got "
            f"{low} to {high}"
        )
    if count < 2:
        logging.warning("data set %r has one class only", name)
    elif len(present) < count:
        missing = np.setdiff1d(np.arange(count), present)
        text = "data set %r has no images of %d of its %d classes (%s)"
        logging.warning(text, name, len(missing), count, some(missing))
    if given is None:
        return tuple(map(str, range(count)))
    raw = (
        one.decode("utf-8", "surrogateescape") if isinstance(one, bytes) else str(one)
        for one in given.tolist()
    )
    return _names.class_names(raw, "class_names")
