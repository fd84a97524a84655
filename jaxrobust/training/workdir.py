"""The work directory of a run: its lock and its config file."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Holds the work directory for this process.

    The operating system frees the lock with the process, however it ends, so a killed
    run never blocks its restart. Remote folders (`gs://`) have no such lock.

    Raises:
      BlockingIOError: if another run holds it.
    """
    path = epath.Path(workdir)
    path.mkdir(parents=True, exist_ok=True)
    if "://" in str(path):
        yield
        return
    with open(os.fspath(path / ".lock"), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(
                f"another run (process {file.read().strip() or 'unknown'}) uses {path}; "
                "wait for it, stop it, or choose another --workdir."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def write_config(
    workdir: epath.PathLike, config: Mapping[str, Any], command: str
) -> None:
    """Saves the config, or checks it against the one that is there.

    Raises:
      ValueError: naming the fields in which the saved config differs.
    """
    path = epath.Path(workdir) / "config.json"
    if path.exists():
        saved = _flat(json.loads(path.read_text())["config"])
        given = _flat(json.loads(json.dumps(config)))
        differing = sorted(
            k for k in saved.keys() | given.keys() if saved.get(k) != given.get(k)
        )
        if differing:
            fields = ", ".join(
                f"{k} ({saved.get(k)} there, {given.get(k)} now)" for k in differing[:5]
            )
            raise ValueError(
                f"{workdir} holds a run with another config: {fields}. Use another "
                "--workdir, or delete that one."
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"config": config, "command": command}, indent=2)
    temporary = path.parent / ".config.json.tmp"
    temporary.write_text(text)
    temporary.replace(path)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name in tree for k, v in
            _flat(tree[name], f"{prefix}.{name}" if prefix else name).items()}  # fmt: skip
