"""Which of the dicts in a checkpoint is the state dict."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jaxrobust._checks import did_you_mean

# What people call the network they trained, then averages and teachers of it.
_RAW = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "net_state_dict",
    "model",
    "net",
    "network",
    "classifier",
    "weights",
    "params",
    "module",
)
_AVERAGED = ("ema", "swa", "averaged", "teacher", "target")
_NOT_WEIGHTS = ("optim", "sched", "scaler", "rng", "metrics", "args")
_DEPTH, _MOST = 4, 10_000


class StateDict(NamedTuple):
    """The state dict of a checkpoint.

    `entry` says where it is, `ema.state_dict`, '' for the whole file, `others` what
    else the file holds, beside it and inside.
    """

    entry: str
    arrays: dict[str, Any]
    others: tuple[str, ...]


def find(loaded: Any, entry: str | None = None) -> StateDict:
    """Finds the state dict in what a file holds, or the one that is called `entry`.

    The trained network comes before averages of it (`ema`, `teacher` ...).

    Raises:
      ValueError: if there is none, several without a usual name, or none so called.
    """
    if not isinstance(loaded, Mapping):
        raise ValueError(
            f"holds {type(loaded).__name__}, not a dict of weights; save "
            "model.state_dict()"
        )
    found = dict(_candidates(loaded))
    if not found:
        keys = ", ".join(sorted(map(str, loaded))[:10]) or "nothing"
        raise ValueError(f"holds no weights: its entries are {keys}")
    if entry is None:
        entry = _choose(found)
    elif entry not in found:
        hint = f"{did_you_mean(entry, found)} It has {listed(found)}"
        raise ValueError(f"has no entry {entry!r} with weights. {hint}")
    arrays = {_shown(str(k)): v for k, v in found[entry].items() if is_array(v)}
    others = [str(k) for k in loaded if entry.split(".")[0] != str(k)] if entry else []
    others += [str(k) for k, v in found[entry].items() if not is_array(v)]
    return StateDict(entry, arrays, tuple(others))


def _shown(name: str) -> str:
    """Returns a name that stays in its line wherever it is told."""
    return name if name.isprintable() else repr(name)


def is_array(value: Any) -> bool:
    """Whether a value is an array or a tensor, looked at without touching its data."""
    try:
        return hasattr(value, "shape") and hasattr(value, "dtype")
    except RuntimeError:  # a nested tensor has neither one shape nor values to take
        return False


def _candidates(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yields dicts with arrays by name, outer ones first; each dict once."""
    seen, level = {id(loaded)}, [("", loaded)]
    for _ in range(_DEPTH):
        below = []
        for name, table in level:
            if any(is_array(value) and len(value.shape) for value in table.values()):
                yield name, table
            for key, value in table.items():
                inner = isinstance(value, Mapping) and id(value) not in seen
                if inner and isinstance(key, str) and len(seen) < _MOST:
                    seen.add(id(value))
                    if not any(word in key.lower() for word in _NOT_WEIGHTS):
                        below.append((f"{name}.{key}" if name else key, value))
        level = below


def _choose(found: Mapping[str, Any]) -> str:
    """Returns the usual entry: of a dict in a dict, the inner one of known name."""
    wrapped = [name for name in found if name] or [""]

    def rank(name: str) -> tuple[int, int]:
        parts = name.lower().split(".")
        averaged = any(word in part for part in parts for word in _AVERAGED)
        known = [_RAW.index(part) for part in parts if part in _RAW]
        return (1 if averaged else 0 if known else 2), min(known, default=0)

    best = min(wrapped, key=rank)
    unknown = rank(best)[0] == 2
    if unknown and "" in found:
        return ""  # a state dict with other things in it
    if unknown and len(wrapped) > 1:
        raise ValueError(
            f"holds several dicts of weights, none by a usual name: {listed(found)}; "
            "say which with --entry"
        )
    return best


def listed(found: Iterable[str]) -> str:
    """Names the first ten of the entries."""
    names = [name or "the whole file" for name in found]
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
