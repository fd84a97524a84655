"""The work directory of a run: its lock and its config file."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict

from jaxrobust.runtime import checkpoint_folder, files, lock, reading
from jaxrobust.runtime.environment import is_lead

# Fields that may change from run to run: a title, those of the evaluation, and those
# that say where something is computed or written, not what.
FREE = (
    "name",
    "eval.",
    "log.",
    "validation.batch_size",
    "train.remat",
    "train.extend",
    "train.allow_changed_data",
    "data.feed",
    "data.test_examples",
)
# Fields that `train.extend` lets change: how long, at what rate, and how often.
EXTENDED = (
    "train.epochs",
    "train.early_stop",
    "train.log_every_steps",
    "train.save_every_steps",
    "train.validate_every_epochs",
    "optimizer.learning_rate",
    "schedule.",
)


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
    """Holds the work directory for this process, see `lock.held` and `require_folder`.

    Remote folders (`gs://`) have no lock: two runs there cannot be told apart. Of
    several processes the lead holds it for all.
    """
    path = files.expand(workdir)
    files.require_folder(path, "choose another --workdir")
    path.mkdir(parents=True, exist_ok=True)
    if files.is_remote(path) or not is_lead():
        yield
        return
    with lock.held(path):
        files.sweep(path)
        yield


def write_config(
    workdir: epath.PathLike,
    config: Mapping[str, Any],
    command: str,
    *,
    extend: bool = False,
    defaults: Mapping[str, Any] | None = None,
    to_train: bool = False,
) -> None:
    """Saves the config and the command of a run, once `check_config` allows it.

    The command that trained the network stays. Before it is trained (`to_train`) the
    fields of `eval` are those of the results that are there.
    """
    if not is_lead():
        return
    command = check_config(workdir, config, extend=extend, defaults=defaults) or command
    there = epath.Path(workdir) / "config.json"
    if to_train and there.exists() and (there.parent / "results.json").exists():
        before = _read(there)["config"]
        config = {**config, "eval": before.get("eval", config.get("eval"))}
    text = json.dumps({"config": config, "command": command}, indent=2)
    files.write_text(epath.Path(workdir) / "config.json", text)


def check_config(
    workdir: epath.PathLike,
    config: Mapping[str, Any],
    *,
    extend: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> str | None:
    """Checks a config against the one that is there; writes nothing.

    How a network is evaluated may change from run to run; how it is trained may not,
    but for its length and rates where it is to `extend` the run. A folder where nothing
    came of it yet (no checkpoint, no results) holds no run, whatever config it has.

    Returns:
      The command that trained the network that is there, or None; ValueError for
      fields that differ.
    """
    path = epath.Path(workdir) / "config.json"
    if extend and not checkpoint_folder.has_steps(path.parent):
        raise ValueError(
            f"`train.extend` goes on with a run, but {workdir} holds none; give its "
            "--workdir, or leave it out to start one."
        )
    if not path.exists():
        return None
    there = _read(path)
    changed = differences(there["config"], config, defaults)
    trained = checkpoint_folder.has_steps(path.parent)
    begun = trained or (path.parent / "results.json").exists()
    if changed and begun:
        _check_change(workdir, changed, extend=extend)
    # Results are of the last evaluation, and so is its command.
    return there.get("command") if trained else None


def differences(
    saved: Mapping[str, Any],
    given: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, tuple[Any, Any]]:
    """Returns the fields of training in which two configs differ, with both values.

    A config from before a field existed had what is now the field's default.
    """
    there, now, default = (
        flatten_dict(json.loads(json.dumps(one)), sep=".")
        for one in (saved, given, defaults or {})
    )
    there = {k: default[k] for k in now if k in default} | there
    return {
        k: (there.get(k), now.get(k))
        for k in sorted(there.keys() | now.keys())
        if there.get(k) != now.get(k) and not k.startswith(FREE)
    }


def told(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Says what differs."""
    shown = [f"{k} ({a} there, {b} now)" for k, (a, b) in list(changed.items())[:5]]
    return ", ".join(shown) + f" and {len(changed) - 5} more" * (len(changed) > 5)


def _check_change(
    workdir: epath.PathLike, changed: Mapping[str, tuple[Any, Any]], *, extend: bool
) -> None:
    """Raises ValueError unless a run may go on with these changes."""
    others = {k: v for k, v in changed.items() if not k.startswith(EXTENDED)}
    if others:
        also = " (train.extend changes epochs, rates and cadences alone)" * extend
        raise ValueError(
            f"{workdir} holds a run with another config: {told(others)}{also}. Use "
            "another --workdir, or delete it."
        )
    if not extend:
        raise ValueError(
            f"{workdir} holds a run with another config: {told(changed)}. To go on "
            "with it so, add --config.train.extend=True; or use another --workdir."
        )
    before, now = changed.get("train.epochs", (0, 0))
    if now < before:
        raise ValueError(
            f"`train.epochs` can only grow where `train.extend` goes on with a run, "
            f"got {now} after {before}; use another --workdir."
        )


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        found = reading.read_json(path, kind=dict)
        if not isinstance(found.get("config"), dict):
            raise ValueError("it holds no config")
        return found
    except ValueError as error:
        told = str(error).rstrip(".")
        told = told if str(path) in told else f"{path} is damaged ({told})"
        raise ValueError(
            f"{told}; delete that file to go on with the config given now."
        ) from None
