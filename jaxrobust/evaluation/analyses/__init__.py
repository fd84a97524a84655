"""What is looked at once the attacks have run: one file per analysis.

Each has `check(fields)` and `run(context, runs) -> Found`; what the page shows of it
has the same name in `report/figures/`. CONTRIBUTING.md says how to add one.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from jaxrobust import named_code
from jaxrobust.data import Dataset
from jaxrobust.evaluation.analyses.base import Analysis as Analysis
from jaxrobust.evaluation.analyses.base import BuiltIn, Fields, Runs
from jaxrobust.evaluation.analyses.base import Context as Context
from jaxrobust.evaluation.analyses.base import Found as Found
from jaxrobust.evaluation.entries import Entry
from jaxrobust.evaluation.rules import Rule
from jaxrobust.results import npz
from jaxrobust.results.schema import ANALYSES

TABLE: Mapping[str, BuiltIn] = {
    name: cast(BuiltIn, importlib.import_module(f"{__name__}.{name}"))
    for name in ANALYSES
}
Own = Mapping[str, Analysis]
NONE: Own = {}


def defaults() -> dict[str, dict[str, Any]]:
    """Returns the parts of `config.eval` that are about analyses."""
    found: dict[str, dict[str, Any]] = {}
    for one in TABLE.values():
        found.setdefault(one.FIELD, {}).update(one.DEFAULTS)
    return found


def rules() -> dict[str, Rule]:
    """Returns the rules of fields, by their names in a config."""
    return {
        f"eval.{one.FIELD}.{name}": rule
        for one in TABLE.values()
        for name, rule in getattr(one, "RULES", {}).items()
    }


def set_fields(fields: Any, name: str) -> None:
    """Sets what each analysis says for `QUICK`, or `ON_CPU`, in `config.eval`."""
    for one in TABLE.values():
        fields[one.FIELD].update(getattr(one, name, {}))


def use_radius(fields: Any, eps: str, step_size: str) -> None:
    """Sets one Linf radius in `config.eval`, for those that have their own."""
    for one in TABLE.values():
        if at_radius := getattr(one, "at_radius", None):
            fields[one.FIELD].update(at_radius(eps, step_size))


def leave_out(fields: Any, trait: str) -> None:
    """Turns off, in `config.eval`, those with `ATTACKS`, or `DIFFERENTIATES`."""
    for one in TABLE.values():
        if getattr(one, trait, False):
            fields[one.FIELD]["enabled"] = False


def load(fields: Fields) -> dict[str, Analysis]:
    """Imports the analyses that `config.eval.own_analyses` names, by label.

    For the caller's own config alone: what a file names is not run. Refuses what cannot
    be imported, or lacks `check` or `run`.
    """
    found, table = {}, fields.get("own_analyses", {})
    if not isinstance(table, Mapping):
        raise TypeError(f"`eval.own_analyses` must be a table, got {table!r}.")
    for label, given in table.items():
        where = f"eval.own_analyses.{label}.name"
        if not isinstance(given, Mapping):
            raise TypeError(
                f"`eval.own_analyses.{label}` must be a table with a name, "
                f"{{'name': 'package.module:analysis'}}, got {given!r}."
            )
        one = named_code.find(given.get("name", ""), f"`{where}`")
        missing = [part for part in ("check", "run") if not hasattr(one, part)]
        if missing:
            raise ValueError(
                f"`{where}` {given['name']!r} has no {' and no '.join(missing)}: an "
                "analysis has check(fields) and run(context, runs)."
            )
        found[label] = one
    return found


def figures(fields: Fields) -> dict[str, Callable[..., Any]]:
    """Returns what draws those of `load` that can be drawn, by label."""
    drawn = {label: getattr(one, "figure", None) for label, one in load(fields).items()}
    return {label: figure for label, figure in drawn.items() if figure is not None}


def check(fields: Fields, entries: Sequence[Entry], own: Own = NONE) -> None:
    """Raises ValueError for a mistake in what `config.eval` says of an analysis.

    `entries` are the attacks that run before it.
    """
    for _, one, part in _each(fields, own):
        one.check(part)
        if asked := getattr(one, "check_attacks", None):
            asked(part, entries)


def check_images(fields: Fields, shape: Sequence[int], own: Own = NONE) -> None:
    """Raises ValueError where an analysis cannot take images of a shape [H, W, C]."""
    for _, one, part in _each(fields, own):
        if asked := getattr(one, "check_images", None):
            asked(part, shape)


def check_data(fields: Fields, dataset: Dataset) -> None:
    """Raises ValueError where an analysis finds its data not to fit the test images."""
    for _, one, part in _each(fields, NONE):
        if asked := getattr(one, "check_data", None):
            asked(part, dataset)


def run(
    context: Context, fields: Fields, runs: Runs, own: Own = NONE
) -> Iterator[Found]:
    """Runs one after the other, each with its own part of `config.eval`, `fields`."""
    for label, one, part in _each(fields, own):
        found = one.run(dataclasses.replace(context, fields=part), runs)
        if label in own:
            arrays = npz.with_label(label, found.arrays)
            results = {"own_analyses": {label: dict(found.results)}}
            found = found._replace(results=results, arrays=arrays)
        yield found


def _each(fields: Fields, own: Own) -> Iterator[tuple[str, Analysis, Fields]]:
    """Yields every analysis that is on, with its name and its part of the config."""
    default = defaults()
    for name, one in TABLE.items():
        part = {**getattr(one, "UNSAID", {}), **fields.get(one.FIELD, {})}
        if part.get("enabled", "enabled" not in default[one.FIELD]):
            yield name, one, part
    for label, one in own.items():
        given = fields.get("own_analyses", {}).get(label, {})
        yield label, one, {k: v for k, v in given.items() if k != "name"}
