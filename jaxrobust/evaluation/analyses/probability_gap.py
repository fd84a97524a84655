"""The probability of the true class minus that of the best other one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxrobust import analysis
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs

FIELD = "analysis"
DEFAULTS: Mapping[str, Any] = MappingProxyType({"enabled": True})


def check(fields: Fields) -> None:
    """Has nothing to check."""


def run(context: Context, runs: Runs) -> Found:
    """Takes the logits that the attacks left."""
    if not context.fields.get("enabled"):
        return Found()
    found = gaps(context.setting.labels, runs)
    return Found({"analyses": {"probability_gap": found}})


def gaps(labels: Int[np.ndarray, "N"], runs: Runs) -> dict[str, Any]:
    """Returns the mean probability gap of all images and of those seen correctly.

    Those are the images that are correct before any attack, under each attack too.
    """
    right = runs["clean"].correct
    found = {}
    for label, one in runs.items():
        both = jnp.asarray(one.logits), jnp.asarray(labels)
        gap = np.asarray(analysis.probability_gap(*both), np.float64)
        mean = float(gap[right].mean()) if right.any() else None
        found[label] = {"all": float(gap.mean()), "correct": mean}
    return {
        "clean": found.pop("clean"),
        "attacks": [{"label": label, **values} for label, values in found.items()],
        "n": len(labels),
        "n_correct": int(right.sum()),
    }
