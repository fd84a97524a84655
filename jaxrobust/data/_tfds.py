"""Image sets prepared in TFDS's array_record layout, read without TensorFlow."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import NDArray

from jaxrobust.data import _names, _prepared
from jaxrobust.data._dataset import LoadOptions, as_labels, spread
from jaxrobust.data._machine import in_threads
from jaxrobust.data._source import EncodedSource
from jaxrobust.runtime import caches, files, reading

_IDX = tuple(
    f"{split}-{kind}-ubyte.gz"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
# The sets that have names, and the official files that `prepare` needs of each.
FILES = {
    "mnist": _IDX,
    "fashion_mnist": _IDX,
    "cifar10": ("cifar-10-binary.tar.gz",),
    "cifar100": ("cifar-100-binary.tar.gz",),
    "svhn_cropped": ("train_32x32.mat", "test_32x32.mat"),
    "caltech101": ("caltech-101.zip",),
    "caltech101_90_10": ("caltech-101.zip",),
    "caltech256": ("256_ObjectCategories.tar",),
    "tiny_imagenet": ("tiny-imagenet-200.zip",),
}
_DIGITS = ("mnist", "svhn_cropped")  # whose classes have no other names
FORMAT = "array_record"
_SPLITS = {"train": ("train",), "test": ("test", "validation")}
# Whose test split has no labels: they were never published.
_UNLABELLED = ("imagenet2012",)
_CHUNK = 1024  # records whose labels are read at once


def data_directory(data_dir: os.PathLike[str] | str | None) -> epath.Path:
    """The argument, else `TFDS_DATA_DIR`, else TFDS's own `~/tensorflow_datasets`."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return files.expand(chosen)


@dataclasses.dataclass(eq=False, kw_only=True)
class Records(EncodedSource):
    """Records of one split of a prepared set.

    TFDS's data source opens its files at the first read, in each process anew, so it
    can be pickled and read in several threads.
    """

    folder: epath.Path
    about: tuple[Any, ...]  # folder, split, sizes and times of files ...
    image_key: str
    label_key: str
    source: Any

    def fetch(self, rows: Sequence[int]) -> list[tuple[bytes, int]]:
        with _damage(self.name, self.folder):
            examples = self.source.__getitems__(list(rows))
        return [(one[self.image_key], one[self.label_key]) for one in examples]

    def stored_labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The labels of some records, one pass over all of them the first time.

        No image is decoded. A part of the set is read alone and not kept. The cache's
        file is named by what the records are, so that others have another.
        """
        count = len(self.source)
        digest = hashlib.sha256(repr(self.about).encode()).hexdigest()[:32]
        cache = caches.folder("labels")
        file = cache and cache / f"{digest}.npy"
        known = _cached(file, count) if file else None
        if known is not None:
            return known[rows]
        if len(rows) < count:
            return self._scan(rows)
        labels = self._scan(np.arange(count))
        if file:  # a cache that takes none is no error: the next run reads them again
            with contextlib.suppress(OSError), files.writing(file) as stream:
                np.save(stream, labels)
        return labels[rows]

    def _scan(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        def read(part: slice) -> list[int]:
            return [label for _, label in self.fetch(rows[part].tolist())]

        title = f"reading the labels of {self.name}"
        labels = in_threads(read, len(rows), _CHUNK, title)
        return as_labels(np.array(labels, np.int64), self.num_classes)

    def describe(self, row: int) -> str:
        return f"example {row} of {self.name}"


def _cached(file: pathlib.Path, count: int) -> NDArray[np.int32] | None:
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
        labels = np.load(file, allow_pickle=False)
        if labels.dtype == np.int32 and labels.shape == (count,):
            return labels
    return None


def open_prepared(
    name: str, split: str, data_dir: os.PathLike[str] | str | None, wanted: LoadOptions
) -> EncodedSource:
    """Opens one split of the prepared TFDS image set `name`; see `data.load`."""
    import tensorflow_datasets as tfds

    _prepared.check_name(name)
    root = _local_root(data_directory(data_dir), name)
    builder = _find(name, root)
    available = builder.info.splits
    stored = next((s for s in _splits(name, split) if s in available), None)
    if stored is None:
        raise ValueError(
            f"data set {name!r} has no {split!r} split; it has {', '.join(available)}"
        )
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    features = dict(builder.info.features.items())
    shape = getattr(features.get(image_key), "shape", ())
    if len(shape) != 3 or not hasattr(features.get(label_key), "names"):
        raise ValueError(
            f"data set {name!r} is no image classification set: it has the features "
            f"{sorted(features)}"
        )
    height, width, channels = shape
    size = wanted.image_size
    if size is None and None in (height, width):
        raise ValueError(
            f"the images of {name!r} differ in size: pass image_size, for example 224"
        )
    if channels not in (1, 3, None):
        raise ValueError(f"images of {name!r} have {channels} channels, not 1 or 3")
    folder = epath.Path(builder.data_dir)
    with _damage(name, folder):
        skip = {image_key: tfds.decode.SkipDecoding()}
        source = builder.as_data_source(stored, decoders=skip)
        count = len(source)
        stats = [(folder / file).stat() for file in available[stored].filenames]
    if name not in _DIGITS or (folder / f"{label_key}.labels.txt").exists():
        label = features[label_key]
        _prepared.check_names(
            label.names, label.num_classes, folder / f"{label_key}.labels.txt"
        )
    times = ((stat.length, stat.mtime) for stat in stats)
    if not count:
        raise ValueError(f"data set {name!r} has no images in its {stored!r} split")
    return Records(
        name=name,
        class_names=_names.class_names(features[label_key].names, f"data set {name!r}"),
        rows=spread(count, wanted.limit),
        shape=(size or height, size or width, wanted.channels or channels or 3),
        stored_channels=channels or 3,
        size=size,
        folder=folder,
        about=(os.fspath(folder), stored, label_key, count, *times),
        image_key=image_key,
        label_key=label_key,
        source=source,
    )


def _splits(name: str, split: str) -> tuple[str, ...]:
    """Names that a split of a set may have there; the first that is there counts."""
    unlabelled = name.partition("/")[0] in _UNLABELLED
    return _SPLITS[split][::-1] if unlabelled else _SPLITS[split]


def _local_root(root: epath.Path, name: str) -> epath.Path:
    """Copies the set `name` of an object store here, as array_record reads local files.

    Returns the data directory of the copy, in the user's cache directory; `root` itself
    where it is on this machine, or does not have the set.
    """
    there = sorted((root / name).glob("*/*")) if files.is_remote(root) else []
    if not there:
        return root
    cache = caches.folder("data")
    if cache is None:
        raise ValueError(
            f"no place for a copy of {root}: {caches.NO_HOME}; set XDG_CACHE_HOME."
        )
    here = cache / hashlib.sha256(os.fspath(root).encode()).hexdigest()[:16]

    def copy(part: slice) -> list[None]:
        for file in there[part]:
            target = here / name / file.parent.name / file.name
            if target.exists() and target.stat().st_size == file.stat().length:
                continue
            # Another process of this machine may copy it too.
            with file.open("rb") as stored, files.writing(target) as copied:
                shutil.copyfileobj(stored, copied, 1 << 20)
        return []

    in_threads(copy, len(there), 1, f"copying {name} from {root}")
    return epath.Path(here)


def _find(name: str, root: epath.Path) -> Any:
    """The builder of the newest prepared version below `root`."""
    import tensorflow_datasets as tfds

    folder = root / name
    found: list[epath.Path] = []
    # Not by a glob: the name is no pattern.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = [p for p in folder.iterdir() if (p / "dataset_info.json").exists()]
    found.sort(
        key=lambda path: [int(n) if n.isdecimal() else -1 for n in path.name.split(".")]
    )
    for version in reversed(found):
        with _damage(name, version):
            _prepared.check(version)
            builder = tfds.builder_from_directory(version)
        if getattr(builder.info.file_format, "value", "") == FORMAT:
            return builder
    seen = f" (found {found[-1].name} in another file format)" if found else ""
    raise FileNotFoundError(
        f"data set {name!r} is not prepared: looked for {FORMAT} data in "
        f"{folder}{seen}.\n"
        f"Prepare it: python -m jaxrobust.data.prepare {name} "
        "[--from ARCHIVE_OR_FOLDER]\n"
        "or set TFDS_DATA_DIR (or data_dir=) to the directory that holds it."
    )


@contextlib.contextmanager
def _damage(name: str, version: os.PathLike[str] | str) -> Iterator[None]:
    """Says of any error that reading raises that the prepared files are at fault."""
    try:
        yield
    except (MemoryError, ConnectionError, TimeoutError, PermissionError):
        raise
    except Exception as error:  # whatever TFDS, protobuf and array_record raise
        where, reason = os.fspath(version), reading.first_line(error)
        raise ValueError(
            f"data set {name!r} is damaged in {where}: {reason}\n"
            "Delete that directory and prepare it again:\n"
            f"python -m jaxrobust.data.prepare {name} [--from ARCHIVE_OR_FOLDER]"
        ) from None
