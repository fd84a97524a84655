"""What nested JSON must look like, and a line about where it does not."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_LARGEST = 1e100
_MOST = 10**15
_DRAWN = 1_000  # points of a drawing


class Kind(NamedTuple):
    """What one value must be: in words, and as a function that says whether it is."""

    told: str
    fits: Any


class Each(NamedTuple):
    """An object of any names, all of whose values have one shape."""

    shape: Any


class Columns(NamedTuple):
    """An object, some of whose lists are equally long."""

    shape: Mapping[str, Any]
    names: Sequence[str]


def is_number(value: Any) -> bool:
    """Whether it is a finite number that can be drawn; true and false are none."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < _LARGEST and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_count(value: Any) -> bool:
    return is_number(value) and 0 <= value <= _MOST and value == int(value)


NUMBER = Kind("a number", is_number)
MAYBE = Kind("a number or null", lambda v: v is None or is_number(v))
SHARE = Kind("a share of 1", _is_share)
MAYBE_SHARE = Kind("a share of 1 or null", lambda v: v is None or _is_share(v))
COUNT = Kind("a count", _is_count)
PAIR = Kind("two numbers", _is_pair)
TEXT = Kind("a text", lambda v: isinstance(v, str))
MAYBE_TEXT = Kind("a text or null", lambda v: v is None or isinstance(v, str))
SWITCH = Kind("true or false", lambda v: isinstance(v, bool))
RADIUS = Kind("a radius or null", lambda v: v is None or (is_number(v) and v >= 0))
OBJECT = Kind("an object", lambda v: isinstance(v, dict))


def one_of(names: Sequence[str]) -> Kind:
    """A text out of a few."""
    return Kind(f"one of {', '.join(names)}", lambda v: v in names)


def few(kind: Kind) -> Kind:
    """A list that can be drawn: neither empty nor too long."""

    def fits(value: Any) -> bool:
        short = isinstance(value, list) and 0 < len(value) <= _DRAWN
        return short and all(map(kind.fits, value))

    return Kind(f"a list of 1 to {_DRAWN}, each {kind.told}", fits)


def rows(kind: Kind) -> Kind:
    """A list of equally long lists."""
    row = few(kind)

    def fits(value: Any) -> bool:
        return few(row).fits(value) and len({len(one) for one in value}) == 1

    return Kind(f"a list of equally long lists, each value {kind.told}", fits)


def require(value: Any, shape: Any, name: str) -> None:
    """Checks nested JSON.

    Args:
      value: as it was read.
      shape: a `Kind`; a list with the shape of every item; an object of shapes by name,
        where `name?` may be missing, and null unless it is a `Kind`; `Each`; or
        `Columns`.
      name: of the value, for the error.

    Raises:
      ValueError: naming the first part that is not as it must be.
    """
    if isinstance(shape, Kind):
        if not shape.fits(value):
            told = json.dumps(value)[:60]
            raise ValueError(f"`{name}` must be {shape.told}, it has {told}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"`{name}` must be a list")
        for i, one in enumerate(value):
            require(one, shape[0], f"{name}[{i}]")
    elif not isinstance(value, dict):
        raise ValueError(f"`{name}` must be an object" if name else "it is no object")
    elif isinstance(shape, Each):
        for key, one in value.items():
            require(one, shape.shape, f"{name}.{key[:40]}")
    elif isinstance(shape, Columns):
        require(value, shape.shape, name)
        if len({len(value[column]) for column in shape.names}) > 1:
            names = ", ".join(f"`{name}.{column}`" for column in shape.names)
            raise ValueError(f"{names} differ in length")
    else:
        for key, inner in shape.items():
            _require_field(value, key, inner, f"{name}." if name else "")


def _require_field(found: Mapping[str, Any], key: str, shape: Any, above: str) -> None:
    optional, key = key.endswith("?"), key.removesuffix("?")
    if optional and found.get(key) is None and not isinstance(shape, Kind):
        return
    if key in found:
        require(found[key], shape, f"{above}{key}")
    elif not optional:
        raise ValueError(f"it has no `{above}{key}`")
