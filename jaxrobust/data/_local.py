"""Sources that need no preparation: scikit-learn's digits, npz files, image folders."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import NDArray

from jaxrobust.data import _images
from jaxrobust.data._dataset import Dataset, spread, stratified_indices
from jaxrobust.data._source import EncodedSource, open_store

_SPLIT_SEED = 0  # of the test splits we make ourselves
_DIGITS_TEST = 360

_FOLDER_RULE = (
    "A folder holds train/CLASS/IMAGE and test/CLASS/IMAGE, or only CLASS/IMAGE "
    "(then a fixed fifth of each class is the test split)."
)
_NPZ_RULE = (
    "An .npz holds x_train, y_train, x_test, y_test, or images and labels "
    "(then a fixed fifth of each class is the test split), and maybe class_names."
)


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
    rows = _own_split(labels, split, _DIGITS_TEST)
    return Dataset(images[rows], labels[rows], names)


def load_npz(path: str, split: str) -> Dataset:
    """Reads a user's arrays, in either form of `_NPZ_RULE`.

    Images are `[N, H, W, C]` or `[N, H, W]`, uint8, or floating in [0, 1] (then
    rounded to 8 bits); labels are integers `[N]` from 0.
    """
    file = epath.Path(path).expanduser()
    if not file.is_file():
        raise _missing("npz", path, "file", _NPZ_RULE)
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        own = {"images", "labels"} <= set(arrays)
        image_key, label_key = (
            ("images", "labels") if own else (f"x_{split}", f"y_{split}")
        )
        for key in (image_key, label_key):
            if key not in arrays:
                raise ValueError(
                    f"data set 'npz:{path}' has no array {key!r}; it has "
                    f"{', '.join(sorted(arrays)) or 'none'}. {_NPZ_RULE}"
                )
        images = _to_uint8(arrays[image_key], image_key)
        labels = _to_labels(arrays[label_key], label_key)
        largest = max(
            _to_labels(arrays[key], key).max(initial=-1)
            for key in ("labels", "y_train", "y_test")
            if key in arrays
        )
        names = tuple(
            str(name) for name in arrays.get("class_names", np.arange(largest + 1))
        )
    if len(images) == len(labels) and own:
        rows = _own_split(labels, split)
        images, labels = images[rows], labels[rows]
    return Dataset(images, labels, names)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """A user's image files and their labels, a `_source.Store`."""

    name: str
    class_names: tuple[str, ...]
    files: list[epath.Path]
    file_labels: NDArray[np.int32]

    def __len__(self) -> int:
        """The number of files."""
        return len(self.files)

    def fetch(self, rows: Sequence[int]) -> list[tuple[bytes, int]]:
        """The content of some files, and their labels."""
        return [(self.files[i].read_bytes(), int(self.file_labels[i])) for i in rows]

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The labels of some files."""
        return self.file_labels[rows]

    def describe(self, row: int) -> str:
        """The path of a file."""
        return str(self.files[row])


def open_folder(
    path: str, split: str, *, image_size: int | None, channels: int, limit: int | None
) -> EncodedSource:
    """Lists a user's image files, in either form of `_FOLDER_RULE`.

    The classes are the folders' names in sorted order. Images without any colour in
    the whole split give one channel, others three.
    """
    root = epath.Path(path).expanduser()
    if not root.is_dir():
        raise _missing("folder", path, "folder", _FOLDER_RULE)
    divided = (root / "train").is_dir() or (root / "test").is_dir()
    names = _class_names(root / "train" if divided else root)
    files, labels = _list_images(root / split if divided else root, names)
    if not files:
        raise ValueError(
            f"data set 'folder:{path}' has no images for the {split!r} split in {root}."
            f" {_FOLDER_RULE}"
        )
    rows = np.arange(len(files)) if divided else _own_split(labels, split)
    rows = rows[spread(len(rows), limit)]
    grey = all(_images.header(files[row].read_bytes())[1] for row in rows)
    return open_store(
        ImageFiles(f"folder:{path}", names, files, labels),
        rows,
        shape=(None, None, 1 if grey else 3),
        size=image_size,
        channels=channels,
    )


def finish(
    dataset: Dataset, *, image_size: int | None, channels: int, limit: int | None
) -> Dataset:
    """Takes `limit` examples at even distances; resizes them, copies grey to RGB."""
    dataset = dataset.take(spread(len(dataset), limit))
    if image_size is not None and dataset.shape[:2] != (image_size, image_size):
        resized = [_images.resize(image, image_size) for image in dataset.images]
        dataset = dataclasses.replace(dataset, images=np.stack(resized))
    return _to_rgb(dataset) if channels else dataset


def _to_rgb(dataset: Dataset) -> Dataset:
    """Copies grey images to three channels; others must have three."""
    channels = dataset.shape[-1]
    if channels == 3:
        return dataset
    if channels != 1:
        raise ValueError(
            f"channels=3 copies grey images, but these have {channels} channels"
        )
    images = np.repeat(dataset.images, 3, axis=-1)
    return Dataset(images, dataset.labels, dataset.class_names)


def _missing(kind: str, path: str, noun: str, rule: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"data set '{kind}:{path}' is not there: no such {noun} as "
        f"{epath.Path(path).expanduser().resolve()}.\n{rule}\n"
        f"Write data.name as {kind}:PATH with the path of yours."
    )


def _own_split(
    labels: NDArray[np.int32], split: str, test: int | None = None
) -> NDArray[np.int64]:
    """Rows of the fixed stratified division of a set that has none."""
    test = len(labels) // 5 if test is None else test
    test_rows = stratified_indices(labels, test, _SPLIT_SEED)
    if split == "test":
        return test_rows
    return np.setdiff1d(np.arange(len(labels)), test_rows)


def _to_uint8(images: NDArray[Any], key: str) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ValueError(f"{key} must be [N, H, W, C] or [N, H, W], got {images.shape}")
    if images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        raise ValueError(
            f"{key} must be [N, H, W, C] with the channels last, got {images.shape}; "
            "transpose it with (0, 2, 3, 1)"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"{key} must be uint8, or floating in [0, 1], got {images.dtype}"
        )
    # `not` rather than <, so that NaN is refused too.
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"{key} is floating, so its values must be finite and in [0, 1], got "
            f"{images.min()} to {images.max()}"
        )
    return np.rint(images * 255).astype(np.uint8)


def _to_labels(labels: NDArray[Any], key: str) -> NDArray[np.int32]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{key} must be integers [N], one class index per image, "
            f"got {labels.dtype} {labels.shape}"
        )
    if labels.size and labels.min() < 0:
        raise ValueError(f"{key} must be class indices from 0, got {labels.min()}")
    return labels.astype(np.int32)


def _class_names(folder: epath.Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(child.name for child in folder.iterdir() if child.is_dir()))


def _list_images(
    folder: epath.Path, names: tuple[str, ...]
) -> tuple[list[epath.Path], NDArray[np.int32]]:
    """All image files of a split, sorted by class and name, and their labels."""
    files, labels = [], []
    for name in _class_names(folder):
        if name not in names:
            raise ValueError(
                f"{folder} has a class {name!r} that is not in train: {names}"
            )
        found = sorted(
            (
                f
                for f in (folder / name).iterdir()
                if f.suffix.lower() in _images.SUFFIXES
            ),
            key=lambda file: file.name,
        )
        files += found
        labels += [names.index(name)] * len(found)
    return files, np.asarray(labels, np.int32)
