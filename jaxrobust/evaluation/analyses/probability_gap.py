"""The probability of the true class minus that of the best other one."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrobust import analysis
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results.npz import CLEAN

FIELD = "analysis"
DEFAULTS: Mapping[str, Any] = {"enabled": True}


def check(fields: Fields) -> None:
    """Has nothing to check."""


def run(context: Context, runs: Runs) -> Found:
    """Takes the logits that the attacks left.

    The mean is over all images and over those that are correct before any attack, under
    each attack too.
    """
    labels, right = context.setting.labels, runs[CLEAN].correct

    def gap(label: str) -> dict[str, float | None]:
        both = jnp.asarray(runs[label].logits), jnp.asarray(labels)
        found = np.asarray(analysis.probability_gap(*both), np.float64)
        mean = float(found[right].mean()) if right.any() else None
        return {"all": float(found.mean()), "correct": mean}

    found = schema.ProbabilityGap(
        clean=schema.Gap(**gap(CLEAN)),
        attacks=[
            schema.GapOf(label=label, **gap(label)) for label in runs if label != CLEAN
        ],
        n=len(labels),
        n_correct=int(right.sum()),
    )
    return Found({"analyses": schema.Analyses(probability_gap=found)})
