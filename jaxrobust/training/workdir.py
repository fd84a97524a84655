"""The work directory of a run: its lock and its config file."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from jaxrobust.parallel import processes


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Holds the work directory for this process.

    The operating system frees the lock with the process, however it ends, so a killed
    run never blocks its restart. Remote folders (`gs://`) have no such lock. Of several
    processes the lead holds it for all.

    Raises:
      BlockingIOError: if another run holds it.
    """
    path = epath.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    if "://" in str(path) or not processes.is_lead():
        yield
        return
    with open(os.fspath(path / ".lock"), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise BlockingIOError(
                f"another run (process {owner}) uses {path}; wait for it, stop it, or "
                "choose another --workdir."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def write_config(
    workdir: epath.PathLike, config: Mapping[str, Any], command: str
) -> None:
    """Saves the config, after checking it against the one that is there.

    How a network is evaluated may change from run to run; how it is trained may not.
    The command that trained it stays.

    Raises:
      ValueError: naming the fields in which the saved config differs.
    """
    if not processes.is_lead():
        return
    path = epath.Path(workdir) / "config.json"
    if path.exists():
        there = json.loads(path.read_text())
        saved, command = _flat(there["config"]), there.get("command") or command
        given = _flat(json.loads(json.dumps(config)))
        differing = [
            f"{k} ({saved.get(k)} there, {given.get(k)} now)"
            for k in sorted(saved.keys() | given.keys())
            if saved.get(k) != given.get(k)
            and not k.startswith("eval.")
            and k != "data.feed"  # the batches are the same either way
        ]
        if differing:
            raise ValueError(
                f"{workdir} holds a run with another config: "
                f"{', '.join(differing[:5])}. Use another --workdir, or delete it."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"config": config, "command": command}, indent=2)
    temporary = path.parent / ".config.json.tmp"
    temporary.write_text(text)
    temporary.replace(path)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Joins the names of nested dictionaries with dots."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat
