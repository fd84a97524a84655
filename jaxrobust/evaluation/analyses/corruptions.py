"""Accuracy under common corruptions, beside clean and attacked accuracy."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from jaxrobust import corruptions
from jaxrobust.array_types import Images, Key, Logits, Variables
from jaxrobust.evaluation import passes, statistics, step
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.rules import choice, each, whole
from jaxrobust.evaluation.setting import Setting, fetched, picked
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results import npz

FIELD = "corruptions"
DEFAULTS: Mapping[str, Any] = {
    "enabled": False,
    "names": (),  # none named = all 15
    "severities": (1, 2, 3, 4, 5),
    "examples": 1000,
}
RULES = {
    "names": each(choice(corruptions.names())),
    "severities": each(whole(1, 5), filled=True),
}
QUICK = {"examples": 32}
NOTE = "procedural textures; not comparable with the published CIFAR-10-C"
SHOWN = 3  # the severity of the pictures

Classify = Callable[[Variables, Images], Logits]
Arrays = dict[str, np.ndarray]


class Wanted(NamedTuple):
    """What `config.eval.corruptions` asks for."""

    names: tuple[str, ...]
    severities: tuple[int, ...]
    examples: int


def check(fields: Fields) -> None:
    """Reads the fields."""
    read(fields)


def check_images(fields: Fields, shape: Sequence[int]) -> None:
    """Raises ValueError for images [H, W, C] that cannot be corrupted."""
    del fields
    corruptions.check_images(jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def read(fields: Fields) -> Wanted:
    """Reads `config.eval.corruptions` (no name means all), or says what is wrong."""
    names = tuple(dict.fromkeys(fields["names"])) or corruptions.names()
    for name in names:
        corruptions.check_name(name)
    severities = tuple(sorted(set(fields["severities"])))
    for severity in severities:
        corruptions.check_severity(severity)
    if not severities:
        raise ValueError("`eval.corruptions.severities` is empty; give some of 1 to 5.")
    if fields["examples"] < 0:
        raise ValueError(
            "`eval.corruptions.examples` must be at least 0 (0 = all), got "
            f"{fields['examples']}."
        )
    return Wanted(names, severities, fields["examples"])


def run(context: Context, runs: Runs) -> Found:
    """Classifies corrupted images, beside the clean and the attacked ones."""
    entries = context.entries
    robust = passes.worst_case(entries, runs) if entries else None
    clean = runs[npz.CLEAN].correct
    found, arrays = classified(context.setting, context.fields, clean, robust)
    return Found({"corruptions": found}, arrays)


def classified(
    setting: Setting,
    fields: Fields,
    clean: Bool[np.ndarray, "N"],
    robust: Bool[np.ndarray, "N"] | None,
) -> tuple[schema.Corruptions, Arrays]:
    """Returns the part `corruptions` of results.json, and arrays for evaluation.npz.

    Each corruption is one compiled program for all severities, and the network another
    one. The draws for an example depend on its index, the corruption and the severity.
    All is on the same n examples.
    """
    wanted = read(fields)
    rows = picked(len(setting.indices), wanted.examples)
    part = setting.part(wanted.examples)
    begin = time.monotonic()
    # Apart from the corruptions, so that it compiles once for all.
    classify = step.classifier(setting.model, setting.precision)
    found = [_run_one(part, classify, name, wanted.severities) for name in wanted.names]
    correct = np.stack([one for one, _ in found])
    attacked = None if robust is None else robust[rows]
    seconds = time.monotonic() - begin
    results = describe(correct, wanted, clean[rows], attacked, seconds)
    arrays = npz.CorruptionsArrays(
        corruption_names=np.asarray(wanted.names),
        corruption_severities=np.asarray(wanted.severities),
        corruption_indices=part.indices,
        corruption_correct=correct,
        corruption_clean=part.dataset.images[part.indices[0]],
        corruption_images=np.stack([image for _, image in found]),
        corruption_shown=np.asarray(_shown(wanted.severities)),
    )
    return results, arrays.named()


def _run_one(
    setting: Setting, classify: Classify, name: str, severities: tuple[int, ...]
) -> tuple[Bool[np.ndarray, "S n"], UInt8[np.ndarray, "H W C"]]:
    """Runs one corruption; returns what is correct, and the first image under it."""

    @jax.jit
    def corrupt(images: Array, keys: Key, severity: Array) -> Images:
        x = step.to_float(images)
        return corruptions.apply(name, x, key=keys, severity=severity)

    def run_step(severity, variables, images, labels, keys) -> Mapping[str, Array]:
        del labels
        x = corrupt(images, keys, np.int32(severity))
        return {"logits": classify(variables, x), "x": x}

    correct, picture = [], np.empty(0)
    for severity in severities:
        flags, one = [], functools.partial(run_step, severity)
        for rows, out in setting.iterate(one, f"{name} {severity}"):
            flags.append(out["logits"].argmax(-1) == setting.labels[rows])
            if rows.start == 0 and severity == _shown(severities):
                picture = fetched(out["x"], rows)[0]
        correct.append(np.concatenate(flags))
    return np.stack(correct), np.round(255 * picture).astype(np.uint8)


def _shown(severities: tuple[int, ...]) -> int:
    return min(severities, key=lambda severity: abs(severity - SHOWN))


def describe(
    correct: Bool[np.ndarray, "R S n"],
    wanted: Wanted,
    clean: Bool[np.ndarray, "n"],
    robust: Bool[np.ndarray, "n"] | None,
    seconds: float,
) -> schema.Corruptions:
    """Returns accuracies: each, per corruption, per severity and over all."""
    worst = None
    if robust is not None:
        worst = schema.RobustOfSome(**statistics.share(robust, "robust_accuracy"))
    return schema.Corruptions(
        rows=[
            schema.Corrupted(name=name, severity=severity, **_share(correct[i, j]))
            for i, name in enumerate(wanted.names)
            for j, severity in enumerate(wanted.severities)
        ],
        by_name=[
            schema.ByName(name=name, **_mean(correct[i]))
            for i, name in enumerate(wanted.names)
        ],
        by_severity=[
            schema.BySeverity(severity=severity, **_mean(correct[:, j]))
            for j, severity in enumerate(wanted.severities)
        ],
        mean_accuracy=float(correct.mean()),
        ci95=_mean(correct.reshape(-1, correct.shape[-1]))["ci95"],
        clean=schema.OfSome(**_share(clean)),
        worst_case=worst,
        n=correct.shape[-1],
        seconds=seconds,
        note=NOTE,
    )


_share = functools.partial(statistics.share, name="accuracy")


def _mean(correct: Bool[np.ndarray, "R n"]) -> dict[str, Any]:
    """Describes a mean over R passes over the same n examples.

    Its interval is Wilson's for one pass with that accuracy: too wide rather than too
    narrow, as an example's mean over passes varies less than one pass does.
    """
    share, n = float(correct.mean()), correct.shape[-1]
    ends = statistics.wilson_interval(round(share * n), n)
    return {"accuracy": share, "ci95": list(ends)}
