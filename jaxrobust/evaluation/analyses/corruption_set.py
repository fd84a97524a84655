"""Accuracy on a published set of corrupted images: CIFAR-10-C, ImageNet-C, 3DCC ..."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from jaxrobust import corruptions, data
from jaxrobust.data import Dataset
from jaxrobust.evaluation import passes, step
from jaxrobust.evaluation.analyses import corruptions as corrupted
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.rules import NAME, TEXT, Rule, broken, each, whole
from jaxrobust.evaluation.setting import Setting, picked
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results import npz
from jaxrobust.runtime import files, reading

FIELD = "corruption_set"
DEFAULTS: Mapping[str, Any] = {
    "path": "",  # of the folder; '' = off
    "names": (),  # none named = those of the benchmark that are there
    "examples": 1000,  # of each severity; 0 = all, as published tables have it
    # Errors to divide by, for mCE: alexnet, none, or a .json or .npz of yours;
    # '' = alexnet of ImageNet-C, none of others.
    "reference": "",
}
ALEXNET, NONE = "alexnet", "none"
_FILES = (".json", ".npz")
REFERENCE = Rule(
    f"{ALEXNET}, {NONE}, '', or a file .json or .npz",
    lambda v: TEXT.holds(v) and (v in ("", ALEXNET, NONE) or v.endswith(_FILES)),
    (ALEXNET, NONE),
)
RULES = {
    "path": TEXT,
    "names": each(NAME),
    "examples": whole(),
    "reference": REFERENCE,
}
UNSAID = {"path": ""}
COMMON, DEPTH = "common corruptions", "3DCC"
# Of Kar et al. 2022, arXiv 2203.01441.
_DEPTH = """near_focus far_focus bit_error color_quant flash fog_3d h265_abr h265_crf
    iso_noise low_light xy_motion_blur z_motion_blur"""
BENCHMARKS: Mapping[str, Sequence[str]] = {
    COMMON: corruptions.names(),
    DEPTH: tuple(_DEPTH.split()),
}
# Mean error over five severities on ImageNet-C, in the order of COMMON: Hendrycks and
# Dietterich 2019, arXiv 1903.12261, with the digits of their repository.
_ALEXNET = """.886428 .894468 .922640 .819880 .826268 .785948 .798360 .866816 .826572
    .819324 .564592 .853204 .646056 .717840 .606500"""
_IMAGENET = 1000  # classes
_IN_MEMORY = 1 << 28  # bytes of images that are read at a time

Reference = Mapping[str, float]
Labels = Int[np.ndarray, "n"]
Read = Callable[[slice], UInt8[np.ndarray, "part H W C"]]


class Chosen(NamedTuple):
    """Corruptions to evaluate, and those that are not, of the benchmark or else."""

    names: Sequence[str]
    benchmark: str | None
    missing: list[str]
    left_out: list[str]


def check(fields: Fields) -> None:
    """Reads the reference, and looks whether there is a folder."""
    if fields["path"]:
        data.corruption_names(fields["path"])
        read_reference(fields["reference"], (), 0)


def check_data(fields: Fields, dataset: Dataset) -> None:
    """Raises ValueError where the set does not fit the test images."""
    if fields["path"]:
        wanted = _opened(fields, dataset)[1]
        read_reference(fields["reference"], wanted.names, dataset.num_classes)


def run(context: Context, runs: Runs) -> Found:
    """Classifies the images of the set, if there is one."""
    fields, setting = context.fields, context.setting
    if not fields["path"]:
        return Found()
    begin = time.monotonic()
    held, wanted = _opened(fields, setting.dataset)
    classes = setting.dataset.num_classes
    reference = read_reference(fields["reference"], wanted.names, classes)
    rows = picked(len(held.labels), fields["examples"])
    severities = tuple(range(1, data.SEVERITIES + 1))
    right = _all_right(setting, held, list(product(wanted.names, severities)), rows)
    right = right.reshape(len(wanted.names), len(severities), len(rows))
    clean, worst = runs[npz.CLEAN].correct, None
    if context.entries:
        worst = passes.worst_case(context.entries, runs)
    asked = corrupted.Wanted(tuple(wanted.names), severities, len(rows))
    seconds = time.monotonic() - begin
    common = corrupted.describe(right, asked, clean, worst, seconds)
    results = _with_reference(common, wanted, reference, fields)
    results = dataclasses.replace(results, of=len(held.labels))
    arrays = npz.CorruptionSetArrays(
        corruption_set_names=np.asarray(wanted.names),
        corruption_set_indices=rows,
        corruption_set_correct=right,
    )
    return Found({"corruption_set": results}, arrays.named())


def _opened(fields: Fields, dataset: Dataset) -> tuple[data.CorruptedImages, Chosen]:
    """Opens the set; chooses of its corruptions those of the benchmark it is."""
    asked = tuple(dict.fromkeys(fields["names"]))
    everything = data.corruption_names(fields["path"])
    known = {name: len({*of} & {*everything}) for name, of in BENCHMARKS.items()}
    benchmark = max(known, key=lambda name: known[name])
    if not known[benchmark] or not {*asked} <= {*BENCHMARKS[benchmark]}:
        benchmark = None  # what is said of it is of its own corruptions alone
    standard = BENCHMARKS.get(benchmark or "", asked or everything)
    names = asked or [name for name in standard if name in everything]
    missing = [name for name in standard if name not in names]
    left_out = [name for name in everything if name not in {*names, *missing}]
    held = data.open_corruption_set(fields["path"], dataset, names)
    return held, Chosen(names, benchmark, missing, left_out)


def _all_right(
    setting: Setting,
    held: data.CorruptedImages,
    conditions: Sequence[tuple[str, int]],
    rows: data.Rows,
) -> Bool[np.ndarray, "conditions n"]:
    """Returns what is right under each corruption and severity: one program for all."""
    classify = step.classifier(setting.model, setting.precision)

    def run_step(variables, images, labels, keys) -> Mapping[str, Array]:
        del labels, keys
        return {"logits": classify(variables, step.to_float(images))}

    found = []
    for name, severity in conditions:
        read = functools.partial(_read, held, name, severity, rows)
        labels, title = held.labels[rows], f"{name} {severity}"
        found.append(_right(setting, run_step, read, labels, title))
    return np.stack(found)


def _read(
    held: data.CorruptedImages, name: str, severity: int, rows: data.Rows, own: slice
) -> UInt8[np.ndarray, "part H W C"]:
    return held.images(name, severity, rows[own])


def _right(
    setting: Setting, run_step: step.EvalStep, read: Read, labels: Labels, title: str
) -> Bool[np.ndarray, "n"]:
    """Returns what is right; reads as many images at a time as memory should hold."""
    batches = _IN_MEMORY // int(np.prod(setting.dataset.shape)) // setting.batch_size
    # Whole batches, so that every part has the compiled shape.
    at_once, names = max(1, batches) * setting.batch_size, setting.dataset.class_names
    found = []
    for start in range(0, len(labels), at_once):
        own = slice(start, start + at_once)
        part = dataclasses.replace(
            setting,
            dataset=Dataset(read(own), labels[own], names),
            indices=np.arange(len(labels[own])),
        )
        for rows, out in part.iterate(run_step, title):
            found.append(out["logits"].argmax(-1) == labels[own][rows])
    return np.concatenate(found)


def _with_reference(
    common: schema.Corruptions,
    wanted: Chosen,
    reference: Reference,
    fields: Fields,
) -> schema.CorruptionSet:
    """Adds what was published of the set, and errors over those of the reference."""
    errors = {one.name: 1 - one.accuracy for one in common.by_name}
    ces = {name: errors[name] / reference[name] for name in errors if reference}
    by_name = [dataclasses.replace(one, ce=ces.get(one.name)) for one in common.by_name]
    mce = float(np.mean([*ces.values()])) if ces and not wanted.missing else None
    named = fields["reference"] or ALEXNET
    return schema.CorruptionSet(
        **{**vars(common), "by_name": by_name, "note": _note(wanted, reference)},
        folder=str(fields["path"]),
        of=0,
        benchmark=wanted.benchmark,
        missing=wanted.missing,
        left_out=wanted.left_out,
        reference=named if reference else None,
        mce=mce,
    )


def _note(wanted: Chosen, reference: Reference) -> str:
    """Says what the means are of."""
    said = "means are of those in the table, "
    if wanted.benchmark is not None:
        known = BENCHMARKS[wanted.benchmark]
        said = (
            f"means are of {len(wanted.names)} of the {len(known)} {wanted.benchmark}, "
        )
    if wanted.missing:
        said += f"without {', '.join(wanted.missing)}, "
    if not reference:
        return said + "and of plain errors: no reference network was given for mCE"
    return said + "and mCE is there only where none is missing"


def read_reference(named: str, names: Sequence[str], classes: int) -> Reference:
    """Returns mean errors of a reference network by corruption; of none it is empty.

    `classes` are those of the set, 0 where they are not known yet. A file has by name
    an error, or one per severity, as shares of 1.

    Raises:
      ValueError: naming the file, for one that lacks a corruption, or holds no errors.
      FileNotFoundError: naming the field, where there is none.
    """
    for told in broken(f"eval.{FIELD}.reference", named, REFERENCE):
        raise ValueError(told)
    common = dict(zip(BENCHMARKS[COMMON], map(float, _ALEXNET.split()), strict=True))
    if not named:
        own = classes == _IMAGENET and {*names} <= {*common}
        named = ALEXNET if own else NONE
    if named == NONE:
        return {}
    if named == ALEXNET and classes not in (0, _IMAGENET):
        raise ValueError(
            f"`eval.{FIELD}.reference` alexnet is of ImageNet-C, got {classes} classes."
        )
    found: Mapping[str, Any] = common
    if named != ALEXNET:
        found = _read_file(named)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"`eval.{FIELD}.reference` {named} has no error of {', '.join(missing)}."
        )
    return {name: _error(named, name, found[name]) for name in names}


def _read_file(named: str) -> Mapping[str, Any]:
    path = files.expand(named)
    try:
        if path.suffix == ".npz":
            return reading.read_npz(path, reading.MIB)
        return reading.read_json(path, reading.MIB, dict)
    except FileNotFoundError:
        told = f"`eval.{FIELD}.reference`: there is no file {named}."
        raise FileNotFoundError(told) from None


def _error(named: str, name: str, value: Any) -> float:
    """Reads an error, or the mean of one per severity."""
    values = np.empty(0)
    numbers = value if isinstance(value, list) else [value]
    # True is no error of 1, and text no number.
    if not any(isinstance(one, bool | str) for one in numbers):
        with contextlib.suppress(TypeError, ValueError):
            values = np.asarray(value, float)
    fits = values.shape in ((), (data.SEVERITIES,))
    if not fits or not ((values > 0) & (values <= 1)).all():
        raise ValueError(
            f"`eval.{FIELD}.reference` {named}: {name} must be an error in (0, 1], or "
            f"one for each of {data.SEVERITIES} severities, got {value}."
        )
    return float(values.mean())
