"""What an evaluation keeps on disk, as numbers and arrays by name, and back.

Nothing that is read is believed: what cannot be so is told.
"""

import collections
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxrobust import parallel
from jaxrobust.evaluation import verify
from jaxrobust.evaluation.autoattack import flags, stage
from jaxrobust.evaluation.autoattack.queue import Queue
from jaxrobust.evaluation.autoattack.result import StageResult, State
from jaxrobust.evaluation.autoattack.setup import Setup
from jaxrobust.evaluation.autoattack.versions import Calls
from jaxrobust.runtime import files, reading

VERSION = 2
_META = "meta"

Meta = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]
Saved = tuple[dict[str, Any], dict[str, np.ndarray]]


def write(path: epath.Path, meta: Meta, arrays: Arrays) -> None:
    """Writes numbers and arrays, replacing the file at once."""
    text = json.dumps({**meta, "format": VERSION})
    files.write_npz(path, {_META: np.asarray(text), **arrays}, compress=False)


def read(path: epath.Path) -> Saved | None:
    """Reads what `write` wrote, or refuses it by name; None where there is nothing."""
    if not path.exists():
        return None
    try:
        # They are not compressed: more than the file has would be a trick.
        arrays = reading.read_npz(path, epath.Path(path).stat().length)
        meta = json.loads(str(arrays.pop(_META)))
        if not isinstance(meta, dict):
            raise ValueError("it says nothing about itself")
    except (ValueError, KeyError, OSError, RecursionError) as error:
        raise ValueError(
            f"the saved state {path} cannot be read ({error}): delete it to start anew."
        ) from None
    if meta.get("format") != VERSION:
        raise ValueError(
            f"the saved state {path} has format {meta.get('format')}, this program "
            f"reads {VERSION}: delete it to start anew."
        )
    return meta, arrays


def pack(setup: Setup, state: State, now: stage.Progress | None) -> Saved:
    """Returns all that goes on: in the middle of a stage where `now` is one."""
    moved = np.flatnonzero((state.x_adv != setup.examples.x).any((1, 2, 3)))
    meta: dict[str, Any] = {
        "stages": [(done.seconds, done.calls) for done in state.stages],
        "flagged": dict(state.numbers),
        "runner": None,
    }
    arrays = {
        "clean": state.logits,
        "share": state.correct_share,
        "stuck": state.zero_gradient,
        "rejected": state.rejected,
        "moved": moved,
        "x_adv": state.x_adv[moved],
        "robust": np.stack([state.clean, *(done.robust for done in state.stages)]),
    }
    if now is not None:
        meta["runner"], more = _pack_progress(setup, now)
        arrays |= {f"runner/{name}": value for name, value in more.items()}
    return meta, arrays


def unpack(setup: Setup, meta: Meta, arrays: Arrays) -> State:
    """Makes the state again from what `pack` returned and `fault` found nothing in."""
    x_adv = setup.examples.x.copy()
    x_adv[arrays["moved"]] = arrays["x_adv"]
    clean, *after = arrays["robust"]
    parts = zip(setup.plan.stages, after, meta["stages"], strict=False)
    return State(
        arrays["clean"],
        clean,
        tuple(
            StageResult(stage.name, robust, seconds, Calls(*calls))
            for stage, robust, (seconds, calls) in parts
        ),
        x_adv,
        arrays["share"],
        arrays["stuck"],
        arrays["rejected"],
        meta["flagged"],
    )


def _pack_progress(setup: Setup, now: stage.Progress) -> Saved:
    found = now.found
    points = [(n, x) for n, several in found.x_adv.items() for x in several]
    rejected = collections.Counter(found.rejected).elements()
    arrays = {
        **{f"board/{name}": value for name, value in now.queue.to_arrays().items()},
        **pack_tree(now.slots, "slots"),
        "outcome/numbers": np.asarray([n for n, _ in points], np.int64),
        "outcome/x_adv": np.stack([x for _, x in points])
        if points
        else setup.examples.x[:0],
        "outcome/stuck": np.asarray(sorted(found.zero_gradient), np.int64),
        "outcome/rejected": np.asarray(sorted(rejected), np.int64),
    }
    meta = {
        "count": now.pace,
        "devices": setup.devices.count,
        "most": setup.slots,
        "calls": list(found.calls),
        "seconds": found.seconds,
    }
    return meta, arrays


def resumed(
    setup: Setup, plan: stage.Stage, logits: np.ndarray, meta: Meta, arrays: Arrays
) -> tuple[stage.Program, stage.Progress]:
    """Returns a stage where it was left, from the part `runner` of what was saved.

    With other slots, or on other devices, the items in flight start again.
    """
    queue = Queue.from_arrays(part(arrays, "board"))
    same = (meta["devices"], meta["most"]) == (setup.devices.count, setup.slots)
    if not same:
        items = len(queue.images) * plan.method.runs()
        queue = queue.restart(stage.slots_of(setup, items))
    program, now = stage.compiled(setup, plan, logits, queue)
    now = now._replace(found=_found(meta, arrays))
    if not same:
        return program, now
    slots = setup.devices.put_rows(unpack_tree(now.slots, arrays, "slots"))
    return program, now._replace(slots=slots, pace=meta["count"])


def _found(meta: Meta, arrays: Arrays) -> stage.Found:
    x_adv: dict[int, tuple[np.ndarray, ...]] = {}
    numbers = arrays["outcome/numbers"].tolist()
    for number, x in zip(numbers, arrays["outcome/x_adv"], strict=True):
        x_adv[number] = (*x_adv.get(number, ()), x)
    return stage.Found(
        x_adv,
        collections.Counter(arrays["outcome/rejected"].tolist()),
        frozenset(arrays["outcome/stuck"].tolist()),
        Calls(*meta["calls"]),
        meta["seconds"],
    )


def pack_tree(tree: Any, name: str) -> dict[str, np.ndarray]:
    """Returns the leaves of a tree as host arrays by number; keys as their data."""
    leaves = [_plain(leaf) for leaf in jax.tree.leaves(tree)]
    return {f"{name}/{i}": leaf for i, leaf in enumerate(parallel.to_host(leaves))}


def unpack_tree(like: Any, arrays: Arrays, name: str) -> Any:
    """Makes the tree again, of host arrays, in the structure of `like`."""
    leaves, tree = jax.tree.flatten(like)
    found = []
    for number, leaf in enumerate(leaves):
        array, wanted = arrays[f"{name}/{number}"], jax.eval_shape(_plain, leaf)
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name}/{number} is {array.dtype} {array.shape}")
        if _is_key(leaf):
            impl = jax.random.key_impl(leaf)
            array = jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
        found.append(array)
    return jax.tree.unflatten(tree, found)


def part(arrays: Arrays, name: str) -> dict[str, np.ndarray]:
    """Returns the arrays below a name."""
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def fault(setup: Setup, clean: np.ndarray, meta: Meta, arrays: Arrays) -> str | None:
    """Says what of a saved state cannot be so, or nothing; `clean` are the logits."""
    if not _is_told(meta, len(setup.plan.stages)):
        return "what it says of its stages"
    x, plain = setup.examples.x, {k: v for k, v in arrays.items() if "/" not in k}
    count, moved = len(x), plain.get("moved", np.zeros(0))
    wanted = {
        "clean": ("f", clean.shape),
        "share": ("f", (count,)),
        "stuck": ("b", (count,)),
        "rejected": ("i", (count,)),
        "moved": ("i", (moved.size,)),
        "x_adv": ("f", (moved.size, *x.shape[1:])),
        "robust": ("b", (len(meta["stages"]) + 1, count)),
    }
    for name, (kind, shape) in wanted.items():
        if name not in plain:
            return f"it has no {name}"
        # Another number of classes is another model, which is told elsewhere.
        fits = plain[name].shape == shape or name == "clean"
        if plain[name].dtype.kind != kind or not fits:
            return f"its {name} is {plain[name].dtype} {plain[name].shape}"
    if not np.isin(moved, np.arange(count)).all():
        return "moved names images that are not there"
    if not ((plain["share"] >= 0) & (plain["share"] <= 1)).all():
        return "a share is not between 0 and 1"
    if moved.size and verify.measure(plain["x_adv"], x[moved], setup.ball)[1].any():
        return "its images are not in the ball"
    return None


def _is_told(meta: Meta, most: int) -> bool:
    """Whether what is not an array is of the kind that `pack` makes."""
    try:
        stages = [(float(s), Calls(*c)) for s, c in meta["stages"]]
        numbers = {k: float(v) for k, v in meta["flagged"].items()}
        runner = meta["runner"]
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return (
        len(stages) <= most
        and set(numbers) >= set(flags.NUMBERS)
        and (runner is None or isinstance(runner, dict))
    )
