"""What this machine has and lacks: `jaxrobust doctor`, or `python -m jaxrobust.doctor`.

One line per thing; the exit status is 1 where something does not work.
"""

import importlib.metadata
import os
import pathlib
import platform
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxrobust import __version__, data
from jaxrobust.runtime import caches, cpu
from jaxrobust.runtime.environment import PACKAGES

Row = tuple[str, bool, str]  # what, whether it works, what is said of it


def main() -> int:
    """Prints what was found; returns the exit status."""
    cpu.tune_cpu()
    failed = False
    for what, works, said in look():
        print(f"{'ok ' if works else 'NO '} {what}: {said}")
        failed |= not works
    return int(failed)


def look() -> Iterator[Row]:
    """Yields one row per thing that was looked at."""
    for look_at in (_versions, _devices, _folder, _cache, _data):
        try:
            yield from look_at()
        except Exception as error:  # a broken installation is what this is for
            yield look_at.__name__.strip("_"), False, f"{type(error).__name__}: {error}"


def _versions() -> Iterator[Row]:
    yield "jaxrobust", True, f"{__version__}, Python {platform.python_version()}"
    found = (f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    yield "packages", True, ", ".join(found)


def _devices() -> Iterator[Row]:
    yield "XLA_FLAGS", True, os.environ.get("XLA_FLAGS") or "none"
    devices = jax.devices()
    total = float(jnp.arange(4.0).sum())
    kinds = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    yield "devices", total == 6, kinds


def _folder() -> Iterator[Row]:
    here = pathlib.Path.cwd()
    problem = caches.problem(here, private=False)
    yield "runs/ goes to", problem is None, problem or str(here)


def _cache() -> Iterator[Row]:
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    own = given or caches.folder()
    if own is None:
        yield "compiled programs", False, f"are not kept: {caches.NO_HOME}"
        return
    problem = caches.problem(own, private=not given)
    yield "compiled programs", problem is None, f"{own} {problem or ''}".strip()


def _data() -> Iterator[Row]:
    given = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = pathlib.Path(given).expanduser()
    there = sorted(name for name in data.names() if (folder / name).is_dir())
    said = ", ".join(there) if there else "none; digits needs none, see `prepare`"
    yield f"data sets in {folder}", True, said


if __name__ == "__main__":
    sys.exit(main())
