"""Metrics: their means, and the check for values that are not finite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import parallel
from jaxrobust.training import nonfinite


def fetch_mean(
    history: Sequence[Mapping[str, Any]], last_step: int, *, skip: int = 0
) -> dict[str, float]:
    """Fetches the metrics of the last steps and averages them.

    Args:
      history: one dictionary of scalars per step, oldest first, on the devices or the
        host. Where a step has `skipped` (`nonfinite.dropping`), it is the number of
        updates dropped in a row.
      last_step: the step after the newest of them.
      skip: how many updates in a row may be dropped.

    Returns:
      The means over the updates that were made; `skipped` is how many were not.

    Raises:
      FloatingPointError: naming the first step and metric that is not finite.
    """
    values: Any = parallel.to_host(list(history))
    first = last_step - len(values)
    made = [
        row for step, row in enumerate(values, first + 1) if _is_made(row, step, skip)
    ]
    names = [k for k in values[0] if k != "skipped"]
    means = {k: float(np.mean([row[k] for row in made])) for k in names if made}
    if skip:
        means["skipped"] = float(len(values) - len(made))
    return means


def _is_made(row: Mapping[str, Any], step: int, skip: int) -> bool:
    """Says whether an update was made; raises where it is not to be passed over."""
    dropped = int(row.get("skipped", 0))
    if 0 < dropped <= skip:
        return False
    bad = [f"metric {k!r} is {v}" for k, v in row.items() if not math.isfinite(v)]
    if bad or dropped:  # an update may overflow where all metrics are finite
        what = bad[0] if bad else "the update is not finite"
        streak = f", number {dropped} in a row" if dropped else ""
        raise FloatingPointError(f"{what} at step {step}{streak}; {nonfinite.ADVICE}")
    return True
