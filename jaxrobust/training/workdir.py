"""The work directory of a run: its lock and its config file."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from jaxrobust.parallel import processes
from jaxrobust.runtime import files, lock
from jaxrobust.training.config import base

# Fields that may change from run to run: of the evaluation, and those that say where
# something is computed, not what.
FREE = ("eval.", "validation.batch_size", "train.remat", "data.feed")


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Holds the work directory for this process.

    See `lock.held`. Remote folders (`gs://`) have no lock: two runs there cannot be
    told apart. Of several processes the lead holds it for all.

    Raises:
      BlockingIOError: if another run holds it.
    """
    path = files.expand(workdir)
    path.mkdir(parents=True, exist_ok=True)
    if files.is_remote(path) or not processes.is_lead():
        yield
        return
    with lock.held(path):
        files.sweep(path)
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
        there = _read(path)
        saved, command = _flat(there["config"]), there.get("command") or command
        given = _flat(json.loads(json.dumps(config)))
        # A config from before a field existed had what is now the field's default.
        default = _flat(json.loads(json.dumps(base().to_dict())))
        saved = {k: default[k] for k in given if k in default} | saved
        differing = [
            f"{k} ({saved.get(k)} there, {given.get(k)} now)"
            for k in sorted(saved.keys() | given.keys())
            if saved.get(k) != given.get(k) and not k.startswith(FREE)
        ]
        if differing:
            raise ValueError(
                f"{workdir} holds a run with another config: "
                f"{', '.join(differing[:5])}. Use another --workdir, or delete it."
            )
    text = json.dumps({"config": config, "command": command}, indent=2)
    files.write_bytes(path, text.encode())


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete that file to go on with the config "
            "given now."
        ) from None


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Joins the names of nested dictionaries with dots."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat
