"""A user's folder of image files, one folder per class."""

import collections
import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from absl import logging
from etils import epath
from numpy.typing import NDArray

from jaxrobust.data import _images, _names, _reading
from jaxrobust.data._dataset import LoadOptions, own_split, spread
from jaxrobust.data._machine import in_threads
from jaxrobust.data._names import printable
from jaxrobust.data._reading import named
from jaxrobust.data._source import EncodedSource

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


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageFiles(EncodedSource):
    """A user's image files and their labels."""

    root: epath.Path
    files: list[str]
    file_labels: NDArray[np.int32]

    def fetch(self, rows: Sequence[int]) -> list[tuple[bytes, int]]:
        return [
            (_reading.read_file(self.root / self.files[i]), int(self.file_labels[i]))
            for i in rows
        ]

    def stored_labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        return self.file_labels[rows]

    def describe(self, row: int) -> str:
        return printable(str(self.root / self.files[row]))


def open_folder(
    name: str, root: epath.Path, split: str, wanted: LoadOptions
) -> EncodedSource:
    """Lists a user's image files, in either form of `RULE`, and reads their headers.

    Images without any colour in the whole split give one channel, others three. The
    folder is there; what counts, and is refused, is as of `data.load`.
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
    names = _names.class_names(_class_folders(root, found), name)
    if len(names) == 1:
        logging.warning("%s has one class only, %r", name, names[0])
    if hint := _names.order_hint(names):
        logging.warning("%s: %s", name, hint)
    of_class = _list(name, split, place, names)
    _require_images(name, split, place, of_class)
    counts = [len(files) for files in of_class.values()]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    rows = np.arange(len(labels)) if found else own_split(labels, split)
    if not len(rows):
        raise ValueError(
            f"data set {name!r} has no images for the {split!r} split in "
            f"{printable(str(place))}. {RULE}"
        )
    source = ImageFiles(
        name=name,
        class_names=names,
        rows=rows[spread(len(rows), wanted.limit)],
        shape=(0, 0, 0),  # until the headers are read
        stored_channels=0,
        size=wanted.image_size,
        root=place,
        files=list(itertools.chain.from_iterable(of_class.values())),
        file_labels=labels,
    )
    height, width, stored = _look(source)
    shape = (height, width, wanted.channels or stored)
    return dataclasses.replace(source, shape=shape, stored_channels=stored)


def _divisions(root: epath.Path) -> dict[str, str]:
    """Split -> its folder, of a divided set; empty where there are only classes.

    A folder called train is a class (of vehicles, say) where it holds no folders.
    """
    inside = _reading.folders(root)
    found = {}
    for split, known in _SPLITS.items():
        for wanted in known:
            named = (f for f in inside if f.lower() == wanted)
            folders = [f for f in named if _reading.folders(root / f)]
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
        raise ValueError(
            f"{printable(str(root))} holds one folder with the data set in it; give "
            f"folder:{printable(str(root / folders[0]))}"
        )
    return folders


def _list(
    name: str, split: str, place: epath.Path, names: Sequence[str]
) -> dict[str, list[str]]:
    """The image files of each class, in label order, below `place`."""
    files: dict[str, list[str]] = {shown: [] for shown in names}
    others: collections.Counter[str] = collections.Counter()
    nested = 0
    seen: dict[tuple[int, int], str] = {}
    for folder in _reading.folders(place):
        own = files.get(_names.normal(folder))
        if own is None:
            raise ValueError(
                f"{printable(str(place))} has a class {printable(folder)!r} that is "
                f"not in train, which has {_quoted(names)}"
            )
        for path in _reading.walk(place / folder, f"{folder}/", seen):
            kind = _suffix(path)
            if kind not in _images.SUFFIXES:
                others[kind or "no suffix"] += 1
                continue
            own.append(path)
            nested += path.count("/") > 1
    beside = [file for file, is_folder in _reading.entries(place) if not is_folder]
    for file in beside:  # a class on a disk that is not there
        if not _suffix(file) and not (place / file).exists():
            raise ValueError(
                f"{printable(str(place / file))} is a link that leads nowhere: mend "
                "or remove it"
            )
    loose = sum(_suffix(file) in _images.SUFFIXES for file in beside)
    _tell(name, split, others, nested, loose)
    return files


def _tell(
    name: str, split: str, others: collections.Counter[str], nested: int, loose: int
) -> None:
    """Logs what is left out, and what is read from deeper down."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in others.most_common(5))
    kinds += ", ..." * (len(others) > 5)
    out = f"of the {split} folders left out, no images ({kinds})"
    deeper = "in folders below a class folder taken for that class's"
    for count, noun, what in (
        (others.total(), "file", out),
        (loose, "image", f"beside the class folders of {split} left out, of no class"),
        (nested, "image", f"of {split} {deeper}"),
    ):
        if count:
            nouns = noun if count == 1 else f"{noun}s"
            logging.warning("%s: %s %s %s", name, f"{count:,}", nouns, what)


def _require_images(
    name: str, split: str, place: epath.Path, files: Mapping[str, Sequence[str]]
) -> None:
    """Refuses classes without images to train, tells them elsewhere."""
    empty = [shown for shown, own in files.items() if not own]
    if 0 < len(empty) < len(files):
        text = f"no images of {len(empty)} of {len(files)} classes: {_quoted(empty)}"
        if split == "train":
            raise ValueError(
                f"data set {name!r} has {text} in {printable(str(place))}; fill these "
                "folders or remove them"
            )
        logging.warning("%s has %s in its %s split", name, text, split)


def _suffix(path: str) -> str:
    return printable(os.path.splitext(path)[1].lower())


def _look(source: ImageFiles) -> tuple[int, int, int]:
    """Height, width and channels of all images, of which only headers are read."""
    known: dict[_images.Header, _images.Header] = {}  # few differ: kept once each

    def read(part: slice) -> list[_images.Header]:
        found = []
        for row in source.rows[part].tolist():
            place = source.root / source.files[row]
            with _reading.open_file(place) as file, named(source.describe, row):
                header = _images.header(file)
            found.append(known.setdefault(header, header))
        return found

    side = source.size
    headers = in_threads(read, len(source), _CHUNK, f"looking at {source.name}")
    first = headers[0]
    grey = sum(one.grey for one in headers)
    channels = 1 if grey == len(headers) else 3
    for row, one in zip(source.rows, headers, strict=True):
        if not side and (one.height, one.width) != (first.height, first.width):
            raise ValueError(
                f"the images differ in size: {source.describe(int(row))} is "
                f"{(one.height, one.width, channels)}, "
                f"{source.describe(int(source.rows[0]))} "
                f"{(first.height, first.width, channels)}; pass image_size to resize "
                "them (--config.data.image_size=32)"
            )
    for text, count in {
        "are grey and are copied to three channels": grey % len(headers),
        "have transparency, which is dropped": sum(one.alpha for one in headers),
        "are animated or have pages: the first is taken": sum(
            one.animated for one in headers
        ),
    }.items():
        if count:
            of = source.name, count, len(headers)
            logging.warning("%s: %d of %d images %s", *of, text)
    return side or first.height, side or first.width, channels


def _quoted(names: Iterable[str]) -> str:
    """Up to five names in quotes."""
    return _names.some(repr(printable(name)) for name in names)
