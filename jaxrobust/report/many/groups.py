"""Runs in groups that differ by nothing but their seed, and numbers over a group."""

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from flax.traverse_util import flatten_dict

from jaxrobust.report.source import RunFiles

K = TypeVar("K", bound=Hashable)

_SEED = re.compile(r"[-_.,+ ]*seed[-=_]?\d+", re.IGNORECASE)
_ENDS = "-_.,=+ "
# A title, and what tells apart the runs of a group.
_OWN = ("name", "seed")


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """What lies in one folder, under a name that no other run of the page has."""

    name: str
    path: str
    files: RunFiles


@dataclasses.dataclass(frozen=True)
class RunGroup:
    """Runs of one config, seeds aside."""

    name: str
    runs: tuple[EvaluatedRun, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of all of them and the checkpoint, but for `seed` and `name`."""
        return _asked(self.runs[0].files)


class Spread(NamedTuple):
    """Mean of n values and their standard deviation (n - 1); None for a single one."""

    mean: float
    deviation: float | None
    n: int

    @property
    def ci95(self) -> list[float] | None:
        """Student's 95 % interval of the mean of shares, cut to [0, 1]."""
        if self.deviation is None:
            return None
        from scipy import special  # not for every import of a report

        reach = special.stdtrit(self.n - 1, 0.975) * self.deviation / self.n**0.5
        return [max(0.0, self.mean - reach), min(1.0, self.mean + reach)]


def spread(values: Sequence[float]) -> Spread:
    """Returns mean, deviation and number of at least one value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def over(
    group: RunGroup, found: Callable[[RunFiles], Mapping[K, float | None]]
) -> dict[K, Spread]:
    """Returns the spread over a group's runs of each of their numbers, by its key."""
    values: dict[K, list[float]] = {}
    for run in group.runs:
        for key, value in found(run.files).items():
            if value is not None:
                values.setdefault(key, []).append(value)
    return {key: spread(each) for key, each in values.items()}


def names(paths: Sequence[str]) -> list[str]:
    """Names folders by their last parts, as many as it takes to tell them apart."""
    parts = [os.path.abspath(path).split(os.sep) for path in paths]
    found = []
    for own in parts:
        others = [one for one in parts if one != own]
        depth = 1
        while depth < len(own) and any(o[-depth:] == own[-depth:] for o in others):
            depth += 1
        found.append("/".join(own[-depth:]))
    return found


def grouped(runs: Iterable[EvaluatedRun]) -> list[RunGroup]:
    """Puts runs with one config together, seeds aside, in the order they come in.

    One without a config is a group of its own. Runs of one seed are no repetition: a
    second one (a copy, say) is not counted with the others.
    """
    sets: dict[tuple[str, int], list[EvaluatedRun]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for run in runs:
        config = _asked(run.files)
        text = json.dumps(config, sort_keys=True) if config else run.path
        seed = text, json.dumps(run.files.config.get("seed"))
        sets.setdefault((text, seen[seed]), []).append(run)
        seen[seed] += 1
    found: dict[str, RunGroup] = {}
    for members in sets.values():
        label = _label([run.name for run in members])
        while label in found:
            label += " (2)"
        found[label] = RunGroup(label, tuple(members))
    return list(found.values())


def _asked(files: RunFiles) -> dict[str, Any]:
    """Returns what tells a run from those that it is one row with."""
    found = {k: v for k, v in files.config.items() if k not in _OWN}
    evaluated = files.results.evaluated if files.results else None
    if found and evaluated and evaluated.checkpoint:
        found["checkpoint"] = evaluated.checkpoint
    return found


def _label(members: Sequence[str]) -> str:
    """Names a group by what its runs' names have in common."""
    if len(members) == 1:
        return members[0]
    without = {_SEED.sub("", name).strip(_ENDS) for name in members}
    if len(without) == 1 and (label := without.pop()):
        return label
    return f"{members[0]} and {len(members) - 1} more"


def differing(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Returns the fields in which the groups' configs differ: each group's value."""
    flat = [flatten_dict(dict(group.config), sep=".") for group in groups]
    fields = dict.fromkeys(name for one in flat for name in one)
    values = {name: [_told(one.get(name)) for one in flat] for name in fields}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def _told(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "" if value is None else text[:60]
