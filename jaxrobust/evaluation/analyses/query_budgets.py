"""What black-box attacks leave after fewer queries than the suite gives them."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxrobust.attacks import registry
from jaxrobust.evaluation import statistics
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.entries import Entry
from jaxrobust.evaluation.rules import whole
from jaxrobust.evaluation.setting import Setting, picked
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results import npz

FIELD = "queries"
DEFAULTS: Mapping[str, Any] = {
    "enabled": False,
    "examples": 200,
    "least": 50,  # the smallest number of queries
    "factor": 2,  # from one number of queries to the next
}
RULES = {"least": whole(1), "factor": whole(2)}
QUICK = {"examples": 16}


def check(fields: Fields) -> None:
    """Nothing that the rules do not say."""


def run(context: Context, runs: Runs) -> Found:
    """Attacks again with fewer queries: of what stands yet, more each time."""
    fields, setting = context.fields, context.setting
    rows = picked(len(setting.indices), fields["examples"])
    part = setting.part(fields["examples"])
    found, arrays = [], npz.query_indices(part.indices)
    for entry in context.entries:
        most = queries_of(entry)
        if most is None or entry.eps is None:
            continue
        begin = time.monotonic()
        tried = _smaller(most, fields["least"], fields["factor"])
        stands, asked = runs[npz.CLEAN].correct[rows], np.zeros(len(rows), np.int64)
        shares = []
        for queries in (*tried, most):
            left = (
                runs[entry.label].correct[rows] & stands
                if queries == most  # the suite's own
                else _after(entry, part, stands, queries)
            )
            asked[stands & ~left], stands = queries, left
            shares.append(statistics.share(left, "robust_accuracy"))
        asked[stands] = npz.STANDS
        fell = asked[asked > 0]
        found.append(
            schema.QueryCurve(
                label=entry.label,
                queries=[*tried, most],
                robust_accuracy=[one["robust_accuracy"] for one in shares],
                ci95=[one["ci95"] for one in shares],
                median=int(np.sort(fell)[(len(fell) - 1) // 2]) if len(fell) else None,
                n=len(rows),
                seconds=time.monotonic() - begin,
            )
        )
        arrays[npz.queries(entry.label)] = asked
    return Found({"queries": found}, arrays) if found else Found()


def queries_of(entry: Entry) -> int | None:
    """Returns an attack's queries per image; None where it counts none."""
    if getattr(entry, "source", "") or not registry.known(entry.name):
        return None
    if (known := registry.parameters(entry.name).get("queries")) is None:
        return None
    return entry.hyperparameters.get("queries", known.default)


def _smaller(most: int, least: int, factor: int) -> list[int]:
    """Returns `least`, and so on by a factor, below the most; smallest first."""
    found = []
    while least < most:
        found.append(least)
        least *= factor
    return found


def _after(
    entry: Entry, setting: Setting, stands: Bool[np.ndarray, "n"], queries: int
) -> Bool[np.ndarray, "n"]:
    """Returns which images stand after so many queries, of those that do before.

    Each has the keys that it has in the suite, so it is the suite's attack but for what
    depends on the number of its queries.
    """
    left = stands.copy()
    if stands.any():
        some = dataclasses.replace(setting, indices=setting.indices[stands])
        given = {**entry.hyperparameters, "queries": queries}
        shorter = dataclasses.replace(entry, hyperparameters=given)
        left[stands] = shorter.prepare(some)(some, 0).correct
    return left
