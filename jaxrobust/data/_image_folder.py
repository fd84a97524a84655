"""A user's folder of image files, one folder per class."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from absl import logging
from etils import epath
from numpy.typing import NDArray

from jaxrobust.data import _images, _names, _reading
from jaxrobust.data._dataset import own_split, spread
from jaxrobust.data._machine import in_threads
from jaxrobust.data._names import printable
from jaxrobust.data._source import EncodedSource, open_store

RULE = (
    "A folder holds train/CLASS/IMAGE and test/CLASS/IMAGE, or only CLASS/IMAGE "
    "(then a fixed fifth of each class is the test split)."
)
# What people call the folders of a division, in any case; the first that is there.
_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
_CHUNK = 64


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """A user's image files and their labels, a `_source.Store`."""

    name: str
    class_names: tuple[str, ...]
    root: epath.Path
    files: list[str]
    file_labels: NDArray[np.int32]

    def __len__(self) -> int:
        """The number of files."""
        return len(self.files)

    def fetch(self, rows: Sequence[int]) -> list[tuple[bytes, int]]:
        """The content of some files, and their labels."""
        return [
            (_reading.read_file(self.root / self.files[i]), int(self.file_labels[i]))
            for i in rows
        ]

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The labels of some files."""
        return self.file_labels[rows]

    def describe(self, row: int) -> str:
        """The path of a file."""
        return printable(str(self.root / self.files[row]))


def open_folder(
    name: str,
    root: epath.Path,
    split: str,
    *,
    image_size: int | None,
    channels: int,
    limit: int | None,
) -> EncodedSource:
    """Lists a user's image files, in either form of `RULE`, and reads their headers.

    Images without any colour in the whole split give one channel, others three. The
    folder is there; the other arguments, and what counts, are as of `data.load`.

    Raises:
        ValueError: no such split, a class without images or of the test split alone,
            files that cannot be read, or images that differ in size without
            `image_size`; names the file or folder.
    """
    found = _divisions(root)
    if found and split not in found:
        raise ValueError(
            f"data set {name!r} has no {split!r} split: {printable(str(root))} has "
            f"{_quoted(found.values())}, but no folder {_quoted(_SPLITS[split])} with "
            f"class folders in it. {RULE}"
        )
    place = root / found[split] if found else root
    if found and found[split].lower() not in ("train", "test"):
        logging.warning("%s: %r is its %s split", name, found[split], split)
    folders = _class_folders(root, found)
    names = _names.class_names(folders, name)
    files = _list(name, split, place, folders, names)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(f) for f in files])
    store = ImageFiles(name, names, place, [f for part in files for f in part], labels)
    rows = np.arange(len(store)) if found else own_split(labels, split)
    if not len(rows):
        raise ValueError(
            f"data set {name!r} has no images for the {split!r} split in "
            f"{printable(str(place))}. {RULE}"
        )
    rows = rows[spread(len(rows), limit)]
    height, width, grey = _look(store, rows, resized=image_size is not None)
    shape = (height, width, 1 if grey else 3)
    return open_store(store, rows, shape=shape, size=image_size, channels=channels)


def _divisions(root: epath.Path) -> dict[str, str]:
    """Split -> its folder, of a divided set; empty where there are only classes.

    A folder called train is a class (of vehicles, say) where it holds no folders.
    """
    inside = _reading.folders(root)
    found = {}
    for split, known in _SPLITS.items():
        for wanted in known:
            folders = [f for f in inside if f.lower() == wanted]
            folders = [f for f in folders if _reading.folders(root / f)]
            if len(folders) > 1:
                raise ValueError(
                    f"{printable(str(root))} has the folders {_quoted(folders)}; which "
                    f"is the {split} split? Rename the other"
                )
            if folders:
                found[split] = folders[0]
                break
    alike = [f for f in inside if any(f.lower() in k for k in _SPLITS.values())]
    if not found and alike and (len(alike) > 1 or len(inside) == 1):
        raise ValueError(
            f"{printable(str(root))} has {_quoted(alike)} without class folders in "
            f"them, so nothing says the images' classes. {RULE}"
        )
    return found


def _class_folders(root: epath.Path, found: Mapping[str, str]) -> list[str]:
    """The folders of the classes, in label order; those of the test split if alone."""
    place = root / (found.get("train") or found["test"]) if found else root
    folders = _reading.folders(place)
    if len(folders) == 1 and not found and _divisions(root / folders[0]):
        inner = printable(str(root / folders[0]))
        raise ValueError(
            f"{printable(str(root))} holds one folder with the data set in it; give "
            f"folder:{inner}"
        )
    return folders


def _list(
    name: str,
    split: str,
    place: epath.Path,
    folders: Sequence[str],
    names: Sequence[str],
) -> list[list[str]]:
    """The image files of each class, in label order, below `place`.

    Raises:
        ValueError: a class that is not among `names`, or of the training split one
            without images.
    """
    files: list[list[str]] = [[] for _ in names]
    others: collections.Counter[str] = collections.Counter()
    nested = 0
    labels = {shown: label for label, shown in enumerate(names)}
    seen: dict[tuple[int, int], str] = {}
    for folder in _reading.folders(place):
        label = labels.get(_names.normal(folder))
        if label is None:
            raise ValueError(
                f"{printable(str(place))} has a class {printable(folder)!r} that is "
                f"not in train, which has {_quoted(names)}"
            )
        for path in _reading.walk(place / folder, f"{folder}/", seen):
            kind = _suffix(path)
            if kind not in _images.SUFFIXES:
                others[kind or "no suffix"] += 1
                continue
            files[label].append(path)
            nested += path.count("/") > 1
    beside = _reading.files_in(place)
    for file in beside:  # a class on a disk that is not there
        if not _suffix(file) and not (place / file).exists():
            raise ValueError(
                f"{printable(str(place / file))} is a link that leads nowhere: mend "
                "or remove it"
            )
    loose = sum(_suffix(f) in _images.SUFFIXES for f in beside)
    _tell(name, split, others, nested, loose)
    empty = [shown for shown, own in zip(names, files, strict=True) if not own]
    if any(files) and empty:
        text = f"no images of {len(empty)} of {len(names)} classes: {_quoted(empty)}"
        if split == "train":
            raise ValueError(
                f"data set {name!r} has {text} in {printable(str(place))}; fill these "
                "folders or remove them"
            )
        logging.warning("%s has %s in its %s split", name, text, split)
    if len(names) == 1:
        logging.warning("%s has one class only, %r", name, names[0])
    if hint := _names.order_hint(names):
        logging.warning("%s: %s", name, hint)
    return files


def _suffix(path: str) -> str:
    _, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return printable(f"{dot}{suffix}".lower()) if dot else ""


def _tell(
    name: str, split: str, others: collections.Counter[str], nested: int, loose: int
) -> None:
    """Logs what is left out, and what is read from deeper down."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in others.most_common(5))
    kinds += ", ..." * (len(others) > 5)
    out, below = "left out, no images", "below a class folder"
    for count, noun, text in (
        (
            others.total(),
            "file",
            f"of the {split} folders {out} ({kinds})",
        ),
        (loose, "image", f"beside the class folders of {split} left out, of no class"),
        (nested, "image", f"of {split} in folders {below} taken for that class's"),
    ):
        if count:
            logging.warning("%s: %s %s", name, _count(count, noun), text)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _look(
    store: ImageFiles, rows: NDArray[np.int64], *, resized: bool
) -> tuple[int, int, bool]:
    """Reads the headers of some images; returns height, width and whether all are grey.

    Raises:
        ValueError: an image that cannot be read, or one of another size where they are
            not resized.
    """
    headers: list[_images.Header] = [None] * len(rows)  # pyright: ignore
    known: dict[_images.Header, _images.Header] = {}  # few differ: kept once each

    def fill(positions: range) -> None:
        for place in positions:
            found = _header(store, int(rows[place]))
            headers[place] = known.setdefault(found, found)

    in_threads(fill, len(rows), _CHUNK, f"looking at {store.name}")
    first = headers[0]
    grey = sum(one.grey for one in headers)
    for row, one in zip(rows, headers, strict=True):
        if not resized and (one.height, one.width) != (first.height, first.width):
            depth = 1 if grey == len(headers) else 3
            raise ValueError(
                f"the images differ in size: {store.describe(int(row))} is "
                f"{(one.height, one.width, depth)}, {store.describe(int(rows[0]))} "
                f"{(first.height, first.width, depth)}; pass image_size to resize "
                "them (--config.data.image_size=32)"
            )
    told = {
        "are grey and are copied to three channels": grey % len(headers),
        "have transparency, which is dropped": sum(one.alpha for one in headers),
        "are animated or have pages: the first is taken": sum(
            one.animated for one in headers
        ),
    }
    for text, count in told.items():
        if count:
            of = store.name, count, len(rows)
            logging.warning("%s: %d of %d images %s", *of, text)
    return first.height, first.width, grey == len(headers)


def _header(store: ImageFiles, row: int) -> _images.Header:
    with _reading.open_file(store.root / store.files[row]) as stream:
        try:
            return _images.header(stream)
        except ValueError as error:
            raise ValueError(f"{store.describe(row)}: {error}") from None


def _quoted(names: Iterable[str]) -> str:
    """Up to five names in quotes."""
    listed = [repr(printable(name)) for name in names]
    return ", ".join(listed[:5]) + (" ..." if len(listed) > 5 else "")
