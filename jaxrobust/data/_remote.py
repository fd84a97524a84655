"""Prepared sets on an object store: copied, as array_record reads local files."""

import hashlib
import os
import shutil

from etils import epath

from jaxrobust.data._machine import in_threads
from jaxrobust.runtime import caches
from jaxrobust.runtime.files import writing


def local_root(root: epath.Path, name: str) -> epath.Path:
    """Copies the set `name` of a data directory to this machine, unless it is there.

    Returns:
        A data directory on this machine that holds the set: in the user's cache
        directory, so that each machine reads every file once. `root` itself where it is
        on this machine, or does not have the set.

    Raises:
        ValueError: the user has no cache directory.
    """
    files = sorted((root / name).glob("*/*")) if "://" in os.fspath(root) else []
    if not files:
        return root
    digest = hashlib.sha256(os.fspath(root).encode()).hexdigest()[:16]
    cache = caches.folder("data")
    if cache is None:
        raise ValueError(
            f"no place for a copy of {root}: {caches.NO_HOME}; set XDG_CACHE_HOME."
        )
    here = cache / digest

    def copy(positions: range) -> None:
        for file in (files[i] for i in positions):
            target = here / name / file.parent.name / file.name
            if target.exists() and target.stat().st_size == file.stat().length:
                continue
            # Another process of this machine may copy it too.
            with file.open("rb") as there, writing(target) as copied:
                shutil.copyfileobj(there, copied, 1 << 20)

    in_threads(copy, len(files), 1, f"copying {name} from {root}")
    return epath.Path(here)
