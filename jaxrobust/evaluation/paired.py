"""Two evaluations on the same images, compared example by example.

Both networks meet the same images, so their accuracies are not independent: what
counts are the images on which the two differ.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool

from jaxrobust.evaluation import statistics
from jaxrobust.results import files as stored
from jaxrobust.results import schema, typed
from jaxrobust.runtime import files

# Of an attack in results.json: what it found, and what does not change that.
_FOUND = {field.name for field in dataclasses.fields(schema.Attack)} - {
    field.name for field in dataclasses.fields(schema.Threat)
}

# Arrays of evaluation.npz with a value per example, and their kinds of dtype.
_ROWS = {"indices": "iu", "labels": "iu", "predicted_clean": "iu", "robust": "b"}


class Evaluation(NamedTuple):
    """What one evaluation left: results.json and evaluation.npz."""

    results: schema.Compared
    arrays: Mapping[str, np.ndarray]


def read(workdir: epath.PathLike) -> Evaluation:
    """Reads the evaluation in a work directory.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: naming a file that is damaged.
    """
    folder = files.expand(workdir)
    for name in ("results.json", "evaluation.npz"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder} holds no {name}: evaluate that run first (--mode=eval)."
            )
    results = stored.read_results(folder / "results.json", schema.Compared)
    arrays = stored.read_arrays(folder / "evaluation.npz")
    stored.require_rows(arrays, _ROWS, folder / "evaluation.npz")
    return Evaluation(results, arrays)


def compare(a: Evaluation, b: Evaluation) -> schema.Comparison:
    """Compares two evaluations on the images that both have.

    Raises:
      ValueError: for other data sets, images or labels, naming both.
    """
    data_a, data_b = a.results.data, b.results.data
    for field in ("name", "of"):
        ours, theirs = getattr(data_a, field), getattr(data_b, field)
        if ours != theirs:
            raise ValueError(
                "the two were evaluated on different data: `data."
                f"{field}` is {ours!r} in one, {theirs!r} in the other."
            )
    both, rows_a, rows_b = np.intersect1d(
        a.arrays["indices"], b.arrays["indices"], return_indices=True
    )
    if not len(both):
        raise ValueError("the two were evaluated on different images; none is in both.")
    labels = a.arrays["labels"][rows_a]
    different = int((labels != b.arrays["labels"][rows_b]).sum())
    if different:
        raise ValueError(
            f"the two were evaluated on different data: {different} of {len(both)} "
            f"images of {data_a.name} have other labels."
        )

    def clean(one: Evaluation, rows: np.ndarray) -> Bool[np.ndarray, "n"]:
        return one.arrays["predicted_clean"][rows] == labels

    attacks_a, attacks_b = (_attacks(one.results) for one in (a, b))
    worst = None
    if attacks_a and attacks_b:
        worst = paired(a.arrays["robust"][rows_a], b.arrays["robust"][rows_b])
    return schema.Comparison(
        n=len(both),
        clean=paired(clean(a, rows_a), clean(b, rows_b)),
        worst_case=worst,
        attacks_a=attacks_a,
        attacks_b=attacks_b,
        same_attacks=_settings(a.results) == _settings(b.results),
    )


def _with_radius(
    results: schema.Compared,
) -> Sequence[schema.Threat]:
    return [one for one in results.attacks if one.eps is not None]


def _attacks(results: schema.Compared) -> list[str]:
    """Names the attacks of the worst case, with their threats."""
    return sorted(
        f"{one.name} ({one.norm}, eps {one.written})" for one in _with_radius(results)
    )


def _settings(results: schema.Compared) -> list[str]:
    """Writes out all that the attacks with a radius were told."""
    told = files.as_plain([typed.as_json(one) for one in _with_radius(results)])
    return sorted(
        json.dumps({k: v for k, v in one.items() if k not in _FOUND}, sort_keys=True)
        for one in told
    )


def paired(a: Bool[np.ndarray, "n"], b: Bool[np.ndarray, "n"]) -> schema.Paired:
    """Compares two shares of the same n examples.

    Returns:
      The shares `a` and `b`; `difference` a - b with its interval `ci95`
      (`statistics.paired_interval`); `only_a` and `only_b`, the numbers of examples
      that one alone gets right; `p_value` of McNemar's exact test that both shares are
      the same.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return schema.Paired(
        a=float(a.mean()),
        b=float(b.mean()),
        difference=(only_a - only_b) / len(a),
        ci95=list(statistics.paired_interval(only_a, only_b, len(a))),
        only_a=only_a,
        only_b=only_b,
        p_value=statistics.mcnemar(only_a, only_b),
    )


def with_twin(
    workdir: epath.PathLike, results: schema.Results, arrays: Mapping[str, Any]
) -> schema.Comparison | None:
    """Compares an evaluation (a) with the one in `workdir`/twin (b).

    None where there is no twin, or it was evaluated on other images.
    """
    assert results.data is not None
    ours = schema.Compared(data=results.data, attacks=[*results.attacks])
    try:
        twin = read(epath.Path(workdir) / "twin")
        return compare(Evaluation(ours, arrays), twin)
    except (FileNotFoundError, ValueError):
        return None
