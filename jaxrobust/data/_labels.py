"""Labels of sets that keep them beside the images: read once, then from a cache."""

import contextlib
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxrobust.data._dataset import check_labels
from jaxrobust.data._machine import in_threads
from jaxrobust.data._source import Store
from jaxrobust.runtime import caches, files

_CHUNK = 1024


def cached(
    store: Store, rows: NDArray[np.int64], identity: Sequence[Any]
) -> NDArray[np.int32]:
    """The labels of some rows of a store, one pass over its records the first time.

    No image is decoded. A part of the set is read alone and not kept. The digest of
    `identity`, what the records are (folder, split, sizes and times of files), names
    the cache's file, so that other records have another.
    """
    digest = hashlib.sha256(repr(tuple(identity)).encode()).hexdigest()[:32]
    cache = caches.folder("labels")
    file = cache and cache / f"{digest}.npy"
    known = _read(file, len(store)) if file else None
    if known is not None:
        return known[rows]
    if len(rows) < len(store):
        return _scan(store, rows)
    labels = _scan(store, np.arange(len(store)))
    if file:  # a cache that takes none is no error: the next run reads them again
        with contextlib.suppress(OSError), files.writing(file) as stream:
            np.save(stream, labels)
    return labels[rows]


def _scan(store: Store, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    labels = np.empty(len(rows), np.int64)  # as stored: a cast could make them fit

    def fill(positions: range) -> None:
        part = slice(positions.start, positions.stop)
        labels[part] = [label for _, label in store.fetch(rows[part].tolist())]

    in_threads(fill, len(rows), _CHUNK, f"reading the labels of {store.name}")
    check_labels(labels, len(store.class_names))
    return labels.astype(np.int32)


def _read(file: pathlib.Path, count: int) -> NDArray[np.int32] | None:
    try:
        labels = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or damaged
        return None
    fits = labels.dtype == np.int32 and labels.shape == (count,)
    return labels if fits else None
