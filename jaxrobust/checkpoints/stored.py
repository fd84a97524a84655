"""Networks in checkpoints: loaded, verified, and saved without a training."""

import contextlib
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from jaxrobust import defenses, named_code, zoo
from jaxrobust.array_types import PyTree, Variables
from jaxrobust.named_models import create_stored
from jaxrobust.parallel import checksums
from jaxrobust.runtime import checkpoint_folder, files, lock, reading
from jaxrobust.runtime.checkpoint_folder import RefusedCheckpoint, usable

# Arrays may take so many bytes, or so many times what their files have: zeros compress.
_SMALL, _RATIO = 1 << 28, 1000
# What runs and evaluations leave beside their checkpoints.
RESULTS = ("results.json", "evaluation.npz", "metrics.jsonl", "training_data.json")


def damage(step: epath.Path, **parts: PyTree) -> str:
    """Says where parts read from a checkpoint are not what was written; else empty."""
    found = checksums.changed(checkpoint_folder.read_part(step, "sums"), **parts)
    return f"{found} in {step} is not what was written" if found else ""


def load(
    workdir: epath.PathLike,
    which: str | None = None,
    *,
    model_name: str | None = None,
) -> tuple[nn.Module, Variables, dict[str, Any]]:
    """Loads a trained network. Nothing that its files name is imported or run.

    Args:
      workdir: a work directory, the folder of one checkpoint inside it, or `zoo:NAME`,
        a network of `zoo.names()`, which is the same whatever `which` says.
      which: `best_robust`, `best_clean` or `last` (on held-out training data); by
        default what an evaluation of the run takes, see `evaluated`.
      model_name: of a network made by a function `package.module:build`, which is
        imported and called only where the caller names it here, too.

    Returns:
      The model, its variables (ready for `models.logits_fn`) and the config. What in
      it names code from outside jaxrobust is not run by whoever is given it.

    Raises:
      ValueError: for an unknown `which`, a path orbax cannot work in, or a checkpoint
        that names code that `model_name` does not.
      FileNotFoundError: if there is no checkpoint.
    """

    def read(path: epath.Path) -> tuple[nn.Module, Variables, dict[str, Any]]:
        config = reading.read_json(path / "config" / "metadata", kind=dict)
        if reason := damage(path, config=config):
            raise ValueError(reason)
        tree = _metadata(path)
        sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)]
        # Refused before its arrays take any memory.
        model = create_stored(config, f"checkpoint {path}", sizes, model_name)
        return model, _read_variables(path, tree), named_code.marked(config)

    if which is not None:
        checkpoint_folder.check_which(which)
    if (name := zoo.named(workdir)) is not None:
        model, variables, card = zoo.load(name)
        return model, variables, card.config
    which = evaluated(checkpoint_folder.config_of(workdir)) if which is None else which
    return checkpoint_folder.first_readable(workdir, which, read)


def evaluated(config: Mapping[str, Any]) -> str:
    """Returns which checkpoint of a run an evaluation takes, by the run's config.

    `best_clean` of a network that is trained without attacks: its robust accuracy is
    near 0 throughout, so that its best is the best of chance.
    """
    objective = config.get("objective")
    name = objective.get("name") if isinstance(objective, Mapping) else None
    return "best_clean" if name == defenses.PLAIN else "best_robust"


def exists(workdir: epath.PathLike) -> bool:
    """Says whether there is anything to `load`; an unknown `zoo:NAME` is a ValueError.

    Nothing is read of a network but its card.
    """
    if (name := zoo.named(workdir)) is not None:
        return bool(zoo.card(name))
    return checkpoint_folder.exists(workdir)


def load_variables(workdir: epath.PathLike, which: str = "last") -> Variables:
    """Loads the variables of a trained network; its config is not even read."""
    if (name := zoo.named(workdir)) is not None:
        checkpoint_folder.check_which(which)
        return zoo.load(name)[1]
    return checkpoint_folder.first_readable(
        workdir, which, lambda path: _read_variables(path, _metadata(path))
    )


def verify(workdir: epath.PathLike) -> None:
    """Opens the newest checkpoint once, as `load` will; OSError if it cannot be read.

    Better told now than when the weights are needed.
    """
    folder = usable(workdir) / "checkpoints"
    for step in checkpoint_folder.ordered_steps(folder, "last")[:1]:
        try:
            path = folder / str(step)
            _read_variables(path, _metadata(path))
        except Exception as error:  # orbax raises many kinds for a damaged folder
            raise OSError(
                f"checkpoint {folder / str(step)} was written and cannot be read again "
                f"({reading.first_line(error)[-200:]}); look at that disk, and train "
                "again."
            ) from None


def _metadata(path: epath.Path) -> PyTree:
    """Returns shapes and dtypes; refuses what needs far more memory than disk."""
    leave_out_late_reads()
    folder = path / "variables"
    stored = checkpoint_folder.size(folder)  # first: what is no file may never end
    tree = ocp.StandardCheckpointHandler().metadata(folder).tree
    declared = sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )
    if declared > max(_SMALL, _RATIO * stored):
        raise RefusedCheckpoint(
            f"checkpoint {path} is damaged: its arrays would take "
            f"{reading.size(declared)}, and its files have {reading.size(stored)}."
        )
    return tree


def _read_variables(path: epath.Path, tree: PyTree) -> Variables:
    """Reads the variables that `_metadata` describes."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here), tree
    )
    args = ocp.args.StandardRestore(abstract)
    found = ocp.StandardCheckpointHandler().restore(path / "variables", args=args)
    wide = [m.dtype for m in jax.tree.leaves(tree) if np.dtype(m.dtype).itemsize > 4]
    narrow = {d for d in wide if jax.dtypes.canonicalize_dtype(d) != d}
    if narrow:
        told = ", ".join(sorted(map(str, narrow)))
        raise RefusedCheckpoint(
            f"checkpoint {path} holds {told}, which JAX has under JAX_ENABLE_X64=1 "
            "alone: set it."
        )
    if reason := damage(path, variables=found):
        raise ValueError(reason)
    check_parameters(found, f"checkpoint {path}")
    return found


def leave_out_late_reads() -> None:
    """Silences what threads do after a failed read, which itself is told.

    The other arrays of a damaged checkpoint arrive once orbax has closed the loop that
    waits for them.
    """
    before = sys.unraisablehook
    if getattr(before, "func", None) is not _without_late_reads:
        sys.unraisablehook = functools.partial(_without_late_reads, before)


def _without_late_reads(before: Callable[[Any], Any], found: Any) -> None:
    if str(found.exc_value) != "Event loop is closed":
        before(found)


def save_variables(
    workdir: epath.PathLike, variables: Variables, config: Mapping[str, Any]
) -> epath.Path:
    """Writes a checkpoint to load or evaluate, without a training state.

    Args:
      workdir: a new work directory; gets `config.json` and `checkpoints/0`.
      variables: what `convert.from_torch` or training returned.
      config: at least `{'model': {'name': ..., ...}}`.

    Returns:
      The checkpoint's folder.

    Raises:
      FileExistsError: if the folder holds a checkpoint or a run already.
      ValueError: for parameters that are no floating numbers, or a config that JSON
        cannot keep.
      BlockingIOError: if a run uses it now.
      OSError: for a link in the place of the checkpoint.
    """
    workdir = usable(workdir)
    variables, config = _as_kept(variables), _plain(config)
    held: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if not files.is_remote(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        held = lock.held(workdir)
    with held:
        _require_no_run(workdir)
        folder = files.own_folder(files.own_folder(workdir / "checkpoints") / "0")
        _write_variables(folder, variables, config)
        files.write_json(workdir / "config.json", {"config": config, "command": ""})
    return folder


def _as_kept(variables: Variables) -> Variables:
    """Returns variables as they will be read: of types that JAX has here.

    Without `jax_enable_x64` it reads float64 as float32.
    """

    def kept(path: Any, value: Any) -> Any:
        if isinstance(value, jax.Array):
            return value
        array = np.asarray(value)
        if array.dtype.kind not in "biufcV":  # V: bfloat16 and its like
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} must be an array of numbers, got {array.dtype}.")
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        native = array.dtype.newbyteorder("=")
        with np.errstate(over="ignore"):
            found = np.asarray(array, jax.dtypes.canonicalize_dtype(native))
        whole = array.dtype.kind in "biu"
        lost = found != array if whole else np.isfinite(array) != np.isfinite(found)
        if lost.any():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{name} is {array.dtype}, and {int(lost.sum())} of its numbers are "
                f"none of {found.dtype}, as which JAX reads it: JAX_ENABLE_X64=1 keeps "
                "them."
            )
        return found

    found = jax.tree_util.tree_map_with_path(kept, variables)
    check_parameters(found, "`variables`")
    return found


def check_parameters(variables: Variables, where: str) -> None:
    """Raises ValueError for parameters that are no real floating numbers.

    Weights that were cast to integers on the way give logits that look like some.
    """
    parameters = variables.get("params", {}) if isinstance(variables, Mapping) else {}
    for path, value in jax.tree_util.tree_leaves_with_path(parameters):
        if not jax.numpy.issubdtype(value.dtype, jax.numpy.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{where}: params/{name} is {value.dtype}, and parameters are floating "
                "numbers: cast them (and scale them back, if they were quantised)."
            )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config as JSON keeps it; numbers of NumPy are numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, ConfigDict):
            return value.to_dict()
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return np.asarray(value).tolist()
        raise TypeError(f"{value!r:.60} is {type(value).__name__}")

    try:
        text = json.dumps(config, allow_nan=False, ensure_ascii=False, default=plain)
        text.encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"`config` cannot be kept as JSON: {error}.") from None
    return json.loads(text)


def _require_no_run(workdir: epath.Path) -> None:
    """Raises FileExistsError where weights would stand beside what is of others.

    Another network would be loaded in their place, or a report would put another's
    numbers under their name. The config of weights that were removed may stay.
    """
    folder = workdir / "checkpoints"
    steps = sorted(folder.iterdir()) if folder.is_dir() else []
    there = [
        p
        for p in steps
        if p.name.isdigit() and not (p.is_dir() and not any(p.iterdir()))
    ]
    there += [p for n in RESULTS if (p := workdir / n).exists()]
    config = workdir / "config.json"
    if not there and config.exists():
        try:
            found = reading.read_json(config, kind=dict)
        except (ValueError, OSError):
            found = {}
        if found.get("command") != "" or "train" in (found.get("config") or {}):
            there.append(config)
    if there:
        raise FileExistsError(
            f"{there[0]} is there already, of another network or run: give another "
            "--workdir, or remove what is in that one."
        )


def _write_variables(
    folder: epath.Path, variables: Variables, config: Mapping[str, Any]
) -> None:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
        writer.save(folder / "config", dict(config))
        writer.save(
            folder / "sums", checksums.of_parts(variables=variables, config=config)
        )
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "variables", dict(variables))
