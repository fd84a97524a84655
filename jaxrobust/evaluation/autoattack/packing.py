"""The state of an evaluation as numbers and arrays by name, and back.

Nothing that was read is believed: `fault` says what of it cannot be so.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrobust.attacks.autoattack_versions import Calls
from jaxrobust.evaluation import verify
from jaxrobust.evaluation.autoattack import flags, stage
from jaxrobust.evaluation.autoattack.result import StageResult, State
from jaxrobust.evaluation.autoattack.setup import Setup
from jaxrobust.evaluation.step import HALF

Arrays = Mapping[str, np.ndarray]
Packed = tuple[dict[str, Any], dict[str, np.ndarray]]


def pack(setup: Setup, state: State, now: stage.StageState | None) -> Packed:
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
        "odd": state.not_finite,
        "rejected": state.rejected,
        "moved": moved,
        "x_adv": state.x_adv[moved],
        "robust": np.stack([state.clean, *(done.robust for done in state.stages)]),
    }
    if now is not None:
        meta["runner"], more = _pack_progress(setup, now)
        arrays |= {f"runner/{name}": value for name, value in more.items()}
    return meta, arrays


def _pack_progress(setup: Setup, now: stage.StageState) -> Packed:
    found = now.found
    points = [(n, x) for n, several in found.x_adv.items() for x in several]
    rejected = collections.Counter(found.rejected).elements()
    arrays = {
        **{f"board/{name}": value for name, value in now.queue.to_arrays().items()},
        **stage.leaves(now.slots),
        "outcome/numbers": np.asarray([n for n, _ in points], np.int64),
        "outcome/x_adv": np.stack([x for _, x in points])
        if points
        else setup.examples.x[:0],
        "outcome/stuck": np.asarray(sorted(found.zero_gradient), np.int64),
        "outcome/odd": np.asarray(sorted(found.not_finite), np.int64),
        "outcome/rejected": np.asarray(sorted(rejected), np.int64),
    }
    meta = {
        "count": now.pace,
        "devices": setup.devices.count,
        "calls": list(found.calls),
        "seconds": found.seconds,
    }
    return meta, arrays


def unpack(setup: Setup, meta: Mapping[str, Any], arrays: Arrays) -> State:
    """Makes the state again of what `pack` made and `fault` found nothing in."""
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
        arrays["odd"],
        arrays["rejected"],
        meta["flagged"],
    )


def findings(meta: Mapping[str, Any], arrays: Arrays) -> stage.StageFindings:
    """Returns what a stage had found when it was left."""
    x_adv: dict[int, tuple[np.ndarray, ...]] = {}
    numbers = arrays["outcome/numbers"].tolist()
    for number, x in zip(numbers, arrays["outcome/x_adv"], strict=True):
        x_adv[number] = (*x_adv.get(number, ()), x)
    return stage.StageFindings(
        x_adv,
        collections.Counter(arrays["outcome/rejected"].tolist()),
        frozenset(arrays["outcome/stuck"].tolist()),
        frozenset(arrays["outcome/odd"].tolist()),
        Calls(*meta["calls"]),
        meta["seconds"],
    )


def below(name: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns the arrays below a name."""
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


def fault(
    setup: Setup, clean: np.ndarray, meta: Mapping[str, Any], arrays: Arrays
) -> str | None:
    """Says what of a saved state cannot be so, or nothing; `clean` are the logits."""
    if not _is_told(meta, len(setup.plan.stages)):
        return "what it says of its stages"
    x, plain = setup.examples.x, {k: v for k, v in arrays.items() if "/" not in k}
    count, moved = len(x), plain.get("moved", np.zeros(0))
    wanted = {
        "clean": ("f", clean.shape),
        "share": ("f", (count,)),
        "stuck": ("b", (count,)),
        "odd": ("b", (count,)),
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
    kept = plain["robust"]
    if (kept[1:] > kept[:-1]).any() or (kept[-1] != (plain["share"] >= HALF)).any():
        return "its verdicts do not agree with each other"
    if moved.size and verify.measure(plain["x_adv"], x[moved], setup.ball)[1].any():
        return "its images are not in the ball"
    return None


def _is_told(meta: Mapping[str, Any], most: int) -> bool:
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
