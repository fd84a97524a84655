"""Reading what a run left: results.json, evaluation.npz, metrics.jsonl, config.json.

Whoever made them, what is returned has the shape that its readers rely on; anything
else is a ValueError of one line that names the file and what is wrong with it. What is
not there is a FileNotFoundError.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from jaxrobust.results import schema, typed
from jaxrobust.runtime import reading

T = TypeVar("T", bound=typed.Part)

_AGAIN = "evaluate that run again (--mode=eval)"
_LONGEST = 100_000  # lists and texts
_NEAR = 1e-6  # what rounding may do
_ARRAYS = 512 * reading.MIB


class _Named(typed.Part):
    """What the page says of network, data and objective."""

    name: str | None = None


@contextlib.contextmanager
def _naming(path: epath.PathLike, advice: str = _AGAIN) -> Iterator[None]:
    """Names the file in what is wrong with it, and says what to do."""
    try:
        yield
    except ValueError as error:
        reason = str(error).rstrip(".")
        name = "" if str(path) in reason else f"{path} is no such file of ours: "
        raise ValueError(f"{name}{reason}; {advice}.") from None


def read_results(path: epath.PathLike, wanted: type[T] = schema.Results) -> T:
    """Reads of results.json what its reader needs, a part of `schema`."""
    with _naming(path):
        found = reading.read_json(path)
        _require_sizes(found)
        version = found.get("schema", 0) if isinstance(found, dict) else 0
        if typed.is_number(version) and version > schema.VERSION:
            raise ValueError(
                f"it is of version {version}, and this jaxrobust reads up to "
                f"{schema.VERSION}: upgrade it"
            )
        results = typed.read(wanted, found)
        _require_sense(results)
        return results


def _require_sense(results: typed.Part) -> None:
    """Raises ValueError for shares that contradict their intervals or each other."""
    parts = {name: getattr(results, name, None) for name in ("clean", "worst_case")}
    attacks = getattr(results, "attacks", None) or []
    parts |= {f"attacks[{i}]": one for i, one in enumerate(attacks)}
    for name, one in parts.items():
        share = getattr(one, "accuracy", getattr(one, "robust_accuracy", None))
        ends = getattr(one, "ci95", None)
        if getattr(one, "n", 1) == 0:
            raise ValueError(f"`{name}.n` must be at least 1, it has 0")
        if share is None or ends is None:
            continue
        if not ends[0] - _NEAR <= share <= ends[1] + _NEAR:
            raise ValueError(
                f"`{name}.ci95` must be an interval around {share}, it has {[*ends]}"
            )
    clean, worst = parts["clean"], parts["worst_case"]
    if clean and worst and worst.robust_accuracy > clean.accuracy + _NEAR:
        raise ValueError(
            f"`worst_case.robust_accuracy` {worst.robust_accuracy} is above "
            f"`clean.accuracy` {clean.accuracy}"
        )


def _require_sizes(value: Any) -> None:
    """Raises ValueError for what would make a page without end."""
    if isinstance(value, str | list | dict) and len(value) > _LONGEST:
        raise ValueError(f"a list or text has {len(value)} parts")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _require_sizes(one)


def read_arrays(
    path: epath.PathLike, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads evaluation.npz or some `names` of it: numbers and text, 512 MiB at most."""
    with _naming(path):
        return reading.read_npz(path, _ARRAYS, names)


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the rows of metrics.jsonl that have a step; empty if it is not there.

    What is no row (a crash may cut one short) and what is no number is left out.
    """
    try:
        return [
            {k: v for k, v in row.items() if v is None or typed.is_number(v)}
            for row in reading.read_json_lines(path)
            if type(step := row.get("step")) is int and typed.is_number(step)
        ]
    except FileNotFoundError:
        return []


def trained_since(
    evaluated: schema.EvaluatedNetwork | None, metrics: Sequence[Mapping[str, Any]]
) -> str:
    """Says where a run was trained further since it was evaluated; else empty."""
    before = evaluated.trained_steps if evaluated else None
    now = metrics[-1]["step"] if metrics else None
    if before is None or now is None or now <= before:
        return ""
    return (
        f"These numbers are of the network as it was at step {before:,}. It was "
        f"trained further since, to step {now:,}: evaluate it again."
    )


def read_config(path: epath.PathLike) -> tuple[dict[str, Any], str]:
    """Reads config.json, and the command that made the run ('' if unknown)."""
    with _naming(path, "delete it, or give another --workdir"):
        found = reading.read_json(path)
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            raise ValueError("it holds no config")
        for name in ("model", "data", "objective"):
            typed.read(_Named, found["config"].get(name, {}), f"config.{name}")
    command = found.get("command", "")
    return found["config"], command if isinstance(command, str) else ""


def require_rows(
    arrays: Mapping[str, np.ndarray], kinds: Mapping[str, str], path: epath.PathLike
) -> None:
    """Raises ValueError unless arrays of the file `path` have one value per example.

    `kinds` says by name which kinds of dtype would do, `iu` or `b`.
    """
    lengths = set()
    for name, kind in kinds.items():
        array = arrays.get(name)
        if array is None or array.ndim != 1 or array.dtype.kind not in kind:
            raise ValueError(f"{path} has no row of numbers {name!r}; {_AGAIN}.")
        lengths.add(len(array))
    if len(lengths) > 1:
        raise ValueError(f"{path}: {', '.join(kinds)} differ in length; {_AGAIN}.")
