"""Where a program runs, and where a result was computed."""

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

ROOT = __name__.partition(".")[0]  # the package above all layers
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def is_lead() -> bool:
    """Says whether this process writes the files."""
    return jax.process_index() == 0


def describe(precision: str) -> dict[str, Any]:
    """Returns versions, devices, precision, commit and date."""
    devices = jax.devices()
    return {
        "jaxrobust": sys.modules[ROOT].__version__,
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "precision": precision,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Returns the commit of the source tree, with `+` where files have changed."""
    here = pathlib.Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        quiet = subprocess.DEVNULL
        return subprocess.check_output(command, text=True, stderr=quiet, timeout=9)

    try:
        commit = git("rev-parse", "--short=12", "HEAD").strip()
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")
