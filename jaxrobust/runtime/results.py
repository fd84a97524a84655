"""Reading what a run left: results.json, evaluation.npz, metrics.jsonl, config.json.

Whoever made them, what is returned has the shape that its readers rely on; anything
else is a ValueError of one line that names the file and what is wrong with it.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxrobust.runtime import reading

NORMS = ("linf", "l2", "l1")
_AGAIN = "evaluate that run again (--mode=eval)"
_LONGEST = 100_000  # lists and texts
_DRAWN = 1_000  # points of a drawing
_ARRAYS = 512 * reading.MIB


class Kind(NamedTuple):
    """What a value must be."""

    told: str
    fits: Any


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < 1e300 and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


_NUMBER = Kind("a number", _is_number)
_SHARE = Kind("a share of 1", lambda v: _is_number(v) and 0 <= v <= 1)
_COUNT = Kind("a count", lambda v: _is_number(v) and v >= 0 and v == int(v))
_PAIR = Kind("two numbers", _is_pair)
_TEXT = Kind("a text", lambda v: isinstance(v, str))
_NORM = Kind(f"one of {', '.join(NORMS)}", lambda v: v in NORMS)
_RADIUS = Kind("a radius or null", lambda v: v is None or (_is_number(v) and v >= 0))
_OBJECT = Kind("an object", lambda v: isinstance(v, dict))
_FEW = Kind(
    f"a list of at most {_DRAWN}", lambda v: isinstance(v, list) and len(v) <= _DRAWN
)
_CLEAN = {"accuracy": _SHARE, "ci95": _PAIR, "n": _COUNT}
_ATTACK = {
    "label": _TEXT,
    "name": _TEXT,
    "norm": _NORM,
    "eps": _RADIUS,
    "robust_accuracy": _SHARE,
    "ci95": _PAIR,
    "n": _COUNT,
}
_FLAG = {"name": _TEXT, "message": _TEXT}
_CLASS = {"class": _TEXT, "n": _COUNT, "accuracy": _SHARE, "robust_accuracy": _SHARE}
_NEEDED = {
    "clean": _CLEAN,
    "attacks": [_ATTACK],
    "worst_case": {"robust_accuracy": _SHARE, "ci95": _PAIR},
    "flags": [_FLAG],
}
_OTHERS = {
    "per_class": [_CLASS],
    "curve": {"eps": _FEW, "eps_text": _FEW, "robust_accuracy": _FEW, "norm": _NORM},
    "growth": {"stages": _FEW, "l1": _FEW, "l2": _FEW},
    "data": {"name": _TEXT},
    "randomised": {"draws": _COUNT},
    "environment": _OBJECT,
    "diagnostics": _OBJECT,
    "analyses": _OBJECT,
    "corruptions": _OBJECT,
    "comparison": _OBJECT,
    "suite": _TEXT,
    "pending": [{"label": _TEXT, "name": _TEXT, "reason": _TEXT}],
}


def read_results(path: epath.PathLike, *, whole: bool = True) -> dict[str, Any]:
    """Reads results.json.

    Args:
      path: of it.
      whole: whether all that a page is made of must be there; what is there must have
        its shape in any case.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if it is damaged, or not what an evaluation writes.
    """
    try:
        found = reading.read_json(path)
        _require_sizes(found)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        for name, kind in _NEEDED.items():
            if whole or name in found:
                _require(found.get(name), kind, name, whole)
        for name, kind in _OTHERS.items():
            if found.get(name) is not None:
                _require(found[name], kind, name, whole)
    except ValueError as error:
        raise _told(path, error, _AGAIN) from None
    return found


def _require(value: Any, kind: Any, name: str, whole: bool = True) -> None:
    """Raises ValueError where a value is not of its kind."""
    if isinstance(kind, Kind):
        if not kind.fits(value):
            shown = json.dumps(value)[:60]
            raise ValueError(f"`{name}` must be {kind.told}, it has {shown}")
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise ValueError(f"`{name}` must be a list")
        for i, one in enumerate(value):
            _require(one, kind[0], f"{name}[{i}]", whole)
    else:
        if not isinstance(value, dict):
            raise ValueError(f"`{name}` must be an object")
        for key, inner in kind.items():
            if whole or key in value:
                _require(value.get(key), inner, f"{name}.{key}", whole)


def _require_sizes(value: Any) -> None:
    """Raises ValueError for what would make a page without end."""
    if isinstance(value, str | list | dict) and len(value) > _LONGEST:
        raise ValueError(f"a list or text has {len(value)} parts")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _require_sizes(one)


def _told(path: epath.PathLike, error: Exception, advice: str) -> ValueError:
    reason = str(error).rstrip(".")
    name = "" if str(path) in reason else f"{path} is no such file of ours: "
    return ValueError(f"{name}{reason}; {advice}.")


def read_arrays(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads evaluation.npz: numbers and text, 512 MiB of them at most.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if it is damaged or too large.
    """
    try:
        return reading.read_npz(path, _ARRAYS)
    except ValueError as error:
        raise _told(path, error, _AGAIN) from None


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the rows of metrics.jsonl that have a step; empty if it is not there.

    What is no row (a crash may cut one short) and what is no number is left out.

    Raises:
      ValueError: if it is too large.
    """
    try:
        rows = [
            {k: v for k, v in row.items() if v is None or _is_number(v)}
            for row in reading.read_json_lines(path)
            if type(row.get("step")) is int
        ]
    except FileNotFoundError:
        return []
    return [row for row in rows if "step" in row]


def read_config(path: epath.PathLike) -> tuple[dict[str, Any], str]:
    """Reads config.json.

    Returns:
      The config, and the command that made the run ('' if unknown).

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if it is damaged or holds no config.
    """
    try:
        found = reading.read_json(path)
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            raise ValueError("it holds no config")
        for name in ("model", "data", "objective"):
            _require(found["config"].get(name, {}), _OBJECT, f"config.{name}")
    except ValueError as error:
        raise _told(path, error, "delete it, or give another --workdir") from None
    command = found.get("command", "")
    return found["config"], command if isinstance(command, str) else ""


def require_rows(
    arrays: Mapping[str, np.ndarray], kinds: Mapping[str, str], path: epath.PathLike
) -> None:
    """Checks that arrays have one value per example.

    Args:
      arrays: of a file.
      kinds: name -> the dtype kinds that would do, `iu` or `b`.
      path: of the file, for the error.

    Raises:
      ValueError: if one is missing, of another kind, or of another length.
    """
    lengths = set()
    for name, kind in kinds.items():
        array = arrays.get(name)
        if array is None or array.ndim != 1 or array.dtype.kind not in kind:
            raise ValueError(f"{path} has no row of numbers {name!r}; {_AGAIN}.")
        lengths.add(len(array))
    if len(lengths) > 1:
        raise ValueError(f"{path}: {', '.join(kinds)} differ in length; {_AGAIN}.")
