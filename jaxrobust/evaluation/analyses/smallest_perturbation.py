"""What attacks without a radius found: how far away the nearest mistake is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxrobust import threat
from jaxrobust._checks import nearest_match
from jaxrobust.evaluation import statistics, step, verify
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.entries import Entry
from jaxrobust.evaluation.rules import RADIUS, each
from jaxrobust.evaluation.text import parse_radius
from jaxrobust.results import schema
from jaxrobust.results.npz import CLEAN

FIELD = "within"
# Beside the suite's own, radii at which to tell what is left.
DEFAULTS: Mapping[str, Any] = {
    "linf": ["2/255", "4/255", "8/255"],
    "l2": ["0.25", "0.5", "1", "2"],
    "l1": ["4", "8", "16"],
    "l0": ["1", "5", "10", "25"],
    "l0_pixels": ["1", "5", "10", "25"],
}
RULES = dict.fromkeys(threat.ALL_NORMS, each(RADIUS))


def check(fields: Fields) -> None:
    """Reads the radii."""
    read_within(fields)


def run(context: Context, runs: Runs) -> Found:
    """Tells for each attack without a radius how far it had to go."""
    within, clean = read_within(context.fields), runs[CLEAN].correct
    found = {}
    for entry in context.entries:
        if entry.eps is not None or entry.threat:
            continue
        others = [one for one in context.entries if one.norm == entry.norm]
        radii = {one.written: one.eps for one in others if one.eps}
        radii = {**within.get(entry.norm, {}), **radii}
        # Smallest first; the same radius may be written in two ways.
        once = {eps: written for written, eps in radii.items() if eps > 0}
        radii = {once[eps]: eps for eps in sorted(once)}
        found[entry.label] = describe(runs[entry.label], clean, entry, radii)
    return Found(of_attacks=found)


def describe(
    run: step.EvalRun,
    clean: Bool[np.ndarray, "N"],
    entry: Entry,
    radii: Mapping[str, float],
) -> dict[str, Any]:
    """Returns median distance and robust accuracy within radii, for results.json.

    The median is over images that only the attack fools (null if there are none); per
    radius in its norm the accuracy counts, of all N examples, those without a mistake
    at or below it.
    """
    distance = run.distance[entry.norm]
    fooled = clean & ~run.correct
    within = []
    for written, eps in radii.items():
        reach = eps + verify.tolerance(eps, entry.ball().bounds)
        robust = run.correct | (distance > reach)
        found = statistics.share(robust, "robust_accuracy")
        within.append(schema.Within(eps=eps, eps_text=written, **found))
    median = float(np.median(distance[fooled])) if fooled.any() else None
    return {"median_distance": median, "accuracy_within": within}


def read_within(fields: Fields) -> dict[str, dict[str, float]]:
    """Reads `config.eval.within`: radii by norm, and by how they are written."""
    found = {}
    for norm, radii in fields.items():
        if norm not in threat.ALL_NORMS:
            told = nearest_match(norm, threat.ALL_NORMS)
            raise ValueError(f"unknown norm in eval.within {norm!r}. {told}")
        name = f"eval.within.{norm}"
        found[norm] = {str(text): parse_radius(text, name) for text in radii}
    return found
