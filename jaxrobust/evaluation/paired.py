"""Two evaluations on the same images, compared example by example.

Both networks meet the same images, so their accuracies are not independent: what
counts are the images on which the two differ.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool

from jaxrobust.evaluation import statistics
from jaxrobust.runtime import evaluation_shape, files
from jaxrobust.runtime import results as stored

Results = dict[str, Any]
# Of an attack in results.json: what it found, and what does not change that.
_FOUND = {
    "label",
    "slots",
    "robust_accuracy",
    "ci95",
    "n",
    "loss",
    "mean_perturbation",
    "seconds",
    "stages",
    "replaced",
}


# Arrays of evaluation.npz with a value per example, and their kinds of dtype.
_ROWS = {"indices": "iu", "labels": "iu", "predicted_clean": "iu", "robust": "b"}


class Evaluation(NamedTuple):
    """What one evaluation left: results.json and evaluation.npz."""

    results: Mapping[str, Any]
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
    wanted = evaluation_shape.COMPARED
    results = stored.read_results(folder / "results.json", wanted)
    arrays = stored.read_arrays(folder / "evaluation.npz")
    stored.require_rows(arrays, _ROWS, folder / "evaluation.npz")
    return Evaluation(results, arrays)


def compare(a: Evaluation, b: Evaluation) -> Results:
    """Compares two evaluations on the images that both have.

    Returns:
      For JSON: `n`, and under `clean` and (if both have an attack with a radius)
      `worst_case` what `paired` returns; `same_attacks`, `attacks_a`, `attacks_b`.

    Raises:
      ValueError: for other data sets, images or labels, naming both.
    """
    data_a, data_b = (one.results["data"] for one in (a, b))
    for field in ("name", "of"):
        if data_a[field] != data_b[field]:
            raise ValueError(
                "the two were evaluated on different data: `data."
                f"{field}` is {data_a[field]!r} in one, {data_b[field]!r} in the other."
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
            f"images of {data_a['name']} have other labels."
        )

    def clean(one: Evaluation, rows: np.ndarray) -> Bool[np.ndarray, "n"]:
        return one.arrays["predicted_clean"][rows] == labels

    attacks_a, attacks_b = (_attacks(one.results) for one in (a, b))
    found: Results = {
        "n": len(both),
        "clean": paired(clean(a, rows_a), clean(b, rows_b)),
        "attacks_a": attacks_a,
        "attacks_b": attacks_b,
        "same_attacks": _settings(a.results) == _settings(b.results),
    }
    if attacks_a and attacks_b:
        robust = a.arrays["robust"][rows_a], b.arrays["robust"][rows_b]
        found["worst_case"] = paired(*robust)
    return found


def _attacks(results: Mapping[str, Any]) -> list[str]:
    """Names the attacks of the worst case, with their threats."""
    return sorted(
        f"{one['name']} ({one['norm']}, eps {one.get('eps_text', one['eps'])})"
        for one in results["attacks"]
        if one["eps"] is not None
    )


def _settings(results: Mapping[str, Any]) -> list[str]:
    """Writes out all that the attacks with a radius were told."""
    return sorted(
        json.dumps({k: v for k, v in one.items() if k not in _FOUND}, sort_keys=True)
        for one in files.as_plain(results["attacks"])
        if one["eps"] is not None
    )


def paired(a: Bool[np.ndarray, "n"], b: Bool[np.ndarray, "n"]) -> Results:
    """Compares two shares of the same n examples.

    Returns:
      The shares `a` and `b`; `difference` a - b with its interval `ci95`
      (`statistics.paired_interval`); `only_a` and `only_b`, the numbers of examples
      that one alone gets right; `p_value` of McNemar's exact test that both shares are
      the same.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return {
        "a": float(a.mean()),
        "b": float(b.mean()),
        "difference": (only_a - only_b) / len(a),
        "ci95": list(statistics.paired_interval(only_a, only_b, len(a))),
        "only_a": only_a,
        "only_b": only_b,
        "p_value": statistics.mcnemar(only_a, only_b),
    }


def with_twin(
    workdir: epath.PathLike, results: Mapping[str, Any], arrays: Mapping[str, Any]
) -> Results | None:
    """Compares an evaluation (a) with the one in `workdir`/twin (b).

    None where there is no twin, or it was evaluated on other images.
    """
    try:
        twin = read(epath.Path(workdir) / "twin")
        return compare(Evaluation(results, arrays), twin)
    except (FileNotFoundError, ValueError):
        return None
