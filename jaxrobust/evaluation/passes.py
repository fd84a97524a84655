"""All passes of an evaluation, over all examples or until intervals are narrow.

And what is kept of them on disk beside results.json.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from jaxrobust.evaluation import statistics, step
from jaxrobust.evaluation.ahead import CompiledAhead
from jaxrobust.evaluation.entries import Entry, Keep, Pass
from jaxrobust.evaluation.setting import Setting, picked
from jaxrobust.results import npz, schema
from jaxrobust.results.npz import CLEAN
from jaxrobust.runtime import files

# Examples that go through the whole suite before the intervals are looked at. Its own
# number, so that the examples do not depend on the batch size or the devices.
BLOCK = 250


class Passes(NamedTuple):
    """What was run on the examples of `setting`: by label, `clean` first."""

    setting: Setting
    entries: Sequence[Entry]
    runs: dict[str, step.EvalRun]
    seconds: dict[str, float]
    stopping: schema.Stopping | None  # when it ended, where that was asked for


def width_of(fields: Mapping[str, Any]) -> float:
    """Reads `config.eval.ci`, the full width at which intervals are narrow; 0 = off."""
    ci = fields.get("ci", 0.0)
    if not 0 <= ci < 1:
        raise ValueError(
            "`eval.ci` is the width of an interval, at least 0 (0 = all examples) and "
            f"below 1, got {ci}."
        )
    return ci


def shown(total: int, fields: Mapping[str, Any]) -> Int[np.ndarray, "grid"]:
    """Returns the positions, among `total` examples, of the images the report shows."""
    if fields["grid"] == 0:
        return np.arange(0)
    return picked(min(total, BLOCK) if width_of(fields) else total, fields["grid"])


def run(
    setting: Setting, entries: Sequence[Entry], fields: Mapping[str, Any]
) -> Passes:
    """Runs the clean images and every attack.

    With `fields['ci']` blocks of `BLOCK` examples, in the order of the setting, go
    through the whole suite one after the other, until the 95 % Wilson intervals of
    clean and worst-case robust accuracy are both at most that wide, end to end. Looking
    after each block makes the last interval a little optimistic.
    """
    width, total = width_of(fields), len(setting.indices)
    ends = range(BLOCK, total, BLOCK) if width else ()
    run_step = step.make_eval_step(setting.model, precision=setting.precision)
    passes: dict[str, Pass] = {
        CLEAN: lambda part, keep: part.run(run_step, CLEAN, keep=keep)
    }
    steps = {e.label: e.compiled(setting) for e in entries if e.in_step}
    passes |= {
        e.label: e.passes(steps[e.label]) if e.in_step else e.prepare(setting)
        for e in entries
    }
    found: dict[str, list[step.EvalRun]] = {label: [] for label in passes}
    seconds = dict.fromkeys(passes, 0.0)
    keep: Keep = shown(total, fields)
    runs, used, widths = {}, 0, {}
    blocks = np.split(setting.indices, ends)
    first = dataclasses.replace(setting, indices=blocks[0])
    work = {k: functools.partial(first.compile, one) for k, one in steps.items()}
    with CompiledAhead(work) as ahead:
        for block in blocks:
            part = dataclasses.replace(setting, indices=block)
            for label, one in passes.items():
                begin = time.monotonic()
                ahead.wait(label)
                kept = len(block) if fields["save_adversarial"] else keep
                found[label].append(one(part, 0 if label == CLEAN else kept))
                seconds[label] += time.monotonic() - begin
            keep, used = 0, used + len(block)
            runs = {label: step.concatenate(parts) for label, parts in found.items()}
            widths = _widths(entries, runs)
            if width and max(widths.values()) <= width:
                break
    setting = dataclasses.replace(setting, indices=setting.indices[:used])
    stopping = None
    if width:
        reason = f"there are no more examples; the intervals are wider than {width:g}"
        if max(widths.values()) <= width:
            reason = (
                "the 95 % intervals of clean and worst-case accuracy are at most "
                f"{width:g} wide"
            )
        stopping = schema.Stopping(
            ci=width, used=used, of=total, block=BLOCK, widths=widths, reason=reason
        )
    return Passes(setting, entries, runs, seconds, stopping)


def worst_case(
    entries: Sequence[Entry], runs: Mapping[str, step.EvalRun]
) -> Bool[np.ndarray, "N"]:
    """Returns which examples are correct as they are and under every attack.

    An attack without a radius does not count: it may change an image into any other, or
    its threat is another one (`other_worst_cases`).
    """
    return _right(runs, [entry.label for entry in entries if entry.eps is not None])


def other_worst_cases(
    entries: Sequence[Entry], runs: Mapping[str, step.EvalRun]
) -> dict[str, tuple[list[str], Bool[np.ndarray, "N"]]]:
    """Returns by threat that is no ball its attacks, and who is right under all."""
    threats: dict[str, list[str]] = {}
    for entry in entries:
        if entry.threat:
            threats.setdefault(entry.threat, []).append(entry.label)
    return {name: (labels, _right(runs, labels)) for name, labels in threats.items()}


def _right(
    runs: Mapping[str, step.EvalRun], labels: Sequence[str]
) -> Bool[np.ndarray, "N"]:
    return np.logical_and.reduce([runs[one].correct for one in (CLEAN, *labels)])


def _widths(
    entries: Sequence[Entry], runs: Mapping[str, step.EvalRun]
) -> dict[str, float]:
    right = {"clean": runs[CLEAN].correct, "worst_case": worst_case(entries, runs)}
    widths = {}
    for name, each in right.items():
        low, high = statistics.wilson_interval(int(each.sum()), len(each))
        widths[name] = high - low
    return widths


def predictions(done: Passes) -> dict[str, Any]:
    """Returns per-example arrays [N] for evaluation.npz, and the names of classes."""
    setting, runs = done.setting, done.runs
    arrays: dict[str, Any] = {
        npz.INDICES: setting.indices,
        npz.LABELS: setting.labels,
        npz.CLASS_NAMES: np.asarray(setting.dataset.class_names),
        npz.CLEAN_LOSS: runs[CLEAN].loss,
        npz.ROBUST: worst_case(done.entries, runs),
    }
    for entry in done.entries:
        if entry.eps is None and not entry.threat:
            distance = runs[entry.label].distance[entry.norm]
            arrays[npz.distance(entry.label)] = distance
    for label, run in runs.items():
        arrays[npz.predicted(label)] = run.predicted
        if label != CLEAN:
            arrays[npz.robust(label)] = run.correct
            stages = run.stages.items()
            arrays |= {npz.robust(label, stage): robust for stage, robust in stages}
    return arrays


def grid(
    done: Passes, attacks: Sequence[schema.AttackSummary], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns sample images under the strongest attack, for the report."""
    setting, runs = done.setting, done.runs
    rows = shown(len(setting.indices), fields)
    # What may change any image into any other shows little beside one with a radius.
    attacks = [a for a in attacks if a.eps is not None] or attacks
    if not attacks or not len(rows):
        return {}
    strongest = min(attacks, key=lambda a: (a.robust_accuracy, -(a.loss or 0))).label
    x_adv = runs[strongest].x_adv
    if fields["save_adversarial"]:
        x_adv = x_adv[rows]
    found = npz.Grid(
        grid_attack=np.asarray(strongest),
        grid_images=setting.dataset.images[setting.indices[rows]],
        grid_x_adv=x_adv,
        grid_labels=setting.labels[rows],
        grid_predicted=runs[CLEAN].predicted[rows],
        grid_predicted_adv=runs[strongest].predicted[rows],
    )
    return found.named()


def write_adversarial(
    workdir: epath.PathLike, setting: Setting, runs: Mapping[str, step.EvalRun]
) -> None:
    """Writes every attacked image by attack; see `compact` for the dtype."""
    images = {npz.x_adv(k): compact(r.x_adv) for k, r in runs.items() if k != CLEAN}
    arrays = {npz.INDICES: setting.indices, npz.LABELS: setting.labels, **images}
    files.write_npz(epath.Path(workdir) / "adversarial.npz", arrays, compress=False)


def compact(images: Float[np.ndarray, "N H W C"]) -> np.ndarray:
    """Returns images as float16 where that loses nothing, else as float32.

    That is so where every value is an 8-bit level, k / 255 in float32: half precision
    tells neighbouring levels apart, and `rint(255 x) / 255` restores each to the bit.
    """
    images = np.asarray(images, np.float32)
    half = images.astype(np.float16)
    levels = np.rint(half.astype(np.float32) * 255)
    exact = np.array_equal(levels / np.float32(255), images)
    return half if exact else images
