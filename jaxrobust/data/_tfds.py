"""Image sets prepared in TFDS's array_record layout, read without TensorFlow."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import NDArray

from jaxrobust.data import _labels, _names, _prepared, _remote
from jaxrobust.data._dataset import spread
from jaxrobust.data._source import EncodedSource, open_store
from jaxrobust.runtime import files, reading

_FORMAT = "array_record"
_SPLITS = {"train": ("train",), "test": ("test", "validation")}


def data_directory(data_dir: os.PathLike[str] | str | None) -> epath.Path:
    """The argument, else `TFDS_DATA_DIR`, else TFDS's own `~/tensorflow_datasets`."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return files.expand(chosen)


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The records of one split of a prepared set, a `_source.Store`.

    TFDS's data source opens its files at the first read, in each process anew, so it
    can be pickled and read in several threads.
    """

    name: str
    class_names: tuple[str, ...]
    folder: epath.Path
    split: str
    files: tuple[str, ...]
    image_key: str
    label_key: str
    source: Any

    def __len__(self) -> int:
        """The number of records."""
        return len(self.source)

    def fetch(self, rows: Sequence[int]) -> list[tuple[bytes, int]]:
        """The encoded images of some records, and their labels."""
        with _damage(self.name, self.folder):
            examples = self.source.__getitems__(list(rows))
        return [
            (example[self.image_key], example[self.label_key]) for example in examples
        ]

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The labels of some records, from a cache where all have been read before."""
        with _damage(self.name, self.folder):
            stats = [(self.folder / file).stat() for file in self.files]
        about = [self.split, self.label_key, len(self)]
        about += [(stat.length, stat.mtime) for stat in stats]
        return _labels.cached(self, rows, (os.fspath(self.folder), *about))

    def describe(self, row: int) -> str:
        """A record in words, for errors."""
        return f"example {row} of {self.name}"


def open_prepared(
    name: str,
    split: str,
    *,
    data_dir: os.PathLike[str] | str | None,
    image_size: int | None,
    channels: int,
    limit: int | None,
) -> EncodedSource:
    """Opens one split of the prepared TFDS image set `name`.

    Raises:
        FileNotFoundError: the set is not there in array_record format.
        ValueError: it has no such split, is no image classification set, or its
            images differ in size and `image_size` is None.
    """
    _prepared.check_name(name)
    root = _remote.local_root(data_directory(data_dir), name)
    builder = _find(name, root)
    split = _split_name(name, split, tuple(builder.info.splits))
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    features = dict(builder.info.features.items())
    if image_key not in features or not hasattr(features.get(label_key), "names"):
        raise ValueError(
            f"data set {name!r} is no image classification set: it has the features "
            f"{sorted(features)}"
        )
    shape = features[image_key].shape
    if image_size is None and None in shape[:2]:
        raise ValueError(
            f"the images of {name!r} differ in size: pass image_size, for example 224"
        )
    if shape[2] not in (1, 3, None):
        raise ValueError(f"images of {name!r} have {shape[2]} channels, not 1 or 3")
    with _damage(name, builder.data_dir):
        import tensorflow_datasets as tfds

        skip = {image_key: tfds.decode.SkipDecoding()}
        source = builder.as_data_source(split, decoders=skip)
        count = len(source)
    if not count:
        raise ValueError(f"data set {name!r} has no images in its {split!r} split")
    records = Records(
        name=name,
        class_names=_names.class_names(features[label_key].names, f"data set {name!r}"),
        folder=epath.Path(builder.data_dir),
        split=split,
        files=tuple(builder.info.splits[split].filenames),
        image_key=image_key,
        label_key=label_key,
        source=source,
    )
    rows = spread(count, limit)
    return open_store(records, rows, shape=shape, size=image_size, channels=channels)


def _find(name: str, root: epath.Path) -> Any:
    """The builder of the newest prepared version below `root`."""
    import tensorflow_datasets as tfds

    folder = root / name
    found = sorted(
        (p for p in _children(folder) if (p / "dataset_info.json").exists()),
        key=lambda path: [
            int(n) if n.isdecimal() else -1 for n in path.name.split(".")
        ],
    )
    for version in reversed(found):
        with _damage(name, version):
            _prepared.check(version)
            builder = tfds.builder_from_directory(version)
        if getattr(builder.info.file_format, "value", "") == _FORMAT:
            return builder
    seen = f" (found {found[-1].name} in another file format)" if found else ""
    raise FileNotFoundError(
        f"data set {name!r} is not prepared: looked for {_FORMAT} data in "
        f"{folder}{seen}.\n"
        f"Prepare it: python -m jaxrobust.data.prepare {name} "
        "[--from ARCHIVE_OR_FOLDER]\n"
        "or set TFDS_DATA_DIR (or data_dir=) to the directory that holds it."
    )


def _children(folder: epath.Path) -> list[epath.Path]:
    """What is in a folder, nothing if it is not there; its name is no pattern."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


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


def _split_name(name: str, split: str, available: tuple[str, ...]) -> str:
    for candidate in _SPLITS[split]:
        if candidate in available:
            return candidate
    raise ValueError(
        f"data set {name!r} has no {split!r} split; it has {', '.join(available)}"
    )
