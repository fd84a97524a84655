"""Nested JSON as dataclasses: read with every value checked, and written back.

A field without a default must be there; one whose default is None may be missing or
null. A field `rest` takes all keys that are no fields. `EQUAL` names lists that are
equally long.
"""

import dataclasses
import functools
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

ABSENT = math.nan  # the default of a number that may be null, too
_LARGEST = 1e100
_MOST = 10**15
_DRAWN = 1_000  # points of a drawing
_UNIONS = (Union, types.UnionType)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Part:
    """An object of JSON: a subclass is a frozen dataclass of keyword arguments."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init_subclass__(cls) -> None:
        """Makes the dataclass."""
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)


T = TypeVar("T", bound=Part)


class Kind(NamedTuple):
    """What one value must be: in words, and as a function that says whether it is."""

    told: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether it is a finite number that can be drawn; true and false are none."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < _LARGEST and math.isfinite(value)


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.told} or null", lambda v: v is None or kind.fits(v))


def _few(kind: Kind) -> Kind:
    """A list that can be drawn: neither empty nor too long."""
    told = f"a list of 1 to {_DRAWN}, each {kind.told}"
    return Kind(told, lambda v: _all_fit(v, kind) and 0 < len(v) <= _DRAWN)


def _all_fit(value: Any, kind: Kind) -> bool:
    return isinstance(value, list) and all(map(kind.fits, value))


def _rows(kind: Kind) -> Kind:
    """A list of equally long lists."""
    told = f"a list of equally long lists, each value {kind.told}"
    rows = _few(_few(kind))
    return Kind(told, lambda v: rows.fits(v) and len({len(row) for row in v}) == 1)


def one_of(names: Sequence[str]) -> Kind:
    """A text out of a few."""
    return Kind(f"one of {', '.join(names)}", lambda v: v in names)


_NUMBER = Kind("a number", is_number)
_SHARE = Kind("a share of 1", lambda v: is_number(v) and 0 <= v <= 1)
_COUNT = Kind("a count", lambda v: is_number(v) and 0 <= v <= _MOST and v == int(v))
_RADIUS = Kind("a radius", lambda v: is_number(v) and v >= 0)
_TEXT = Kind("a text", lambda v: isinstance(v, str))
_PAIR = Kind("two numbers", lambda v: _all_fit(v, _NUMBER) and len(v) == 2)
_PLAIN = {
    str: _TEXT,
    bool: Kind("true or false", lambda v: isinstance(v, bool)),
    Any: Kind("anything", lambda v: True),
}

Number = Annotated[float, _NUMBER]
MaybeNumber = Annotated[float | None, _or_null(_NUMBER)]
Measured = Annotated[float, _or_null(_NUMBER)]  # null where it was not finite
Share = Annotated[float, _SHARE]
MaybeShare = Annotated[float | None, _or_null(_SHARE)]
Count = Annotated[int, _COUNT]
Pair = Annotated[Sequence[float], _PAIR]
MaybeText = Annotated[str | None, _or_null(_TEXT)]
MaybeRadius = Annotated[float | None, _or_null(_RADIUS)]
Numbers = Annotated[Sequence[float], _few(_NUMBER)]
MaybeNumbers = Annotated[Sequence[float | None], _few(_or_null(_NUMBER))]
Shares = Annotated[Sequence[float], _few(_SHARE)]
Counts = Annotated[Sequence[int], _few(_COUNT)]
Texts = Annotated[Sequence[str], _few(_TEXT)]
Pairs = Annotated[Sequence[Pair], _few(_PAIR)]
RowsOfShares = Annotated[Sequence[Sequence[float | None]], _rows(_or_null(_SHARE))]


def read(wanted: type[T], value: Any, name: str = "") -> T:
    """Makes a part of nested JSON; `name` is the value's in an error.

    Raises:
      ValueError: naming the first part that is not as it must be.
    """
    return _read(wanted, value, name)


def as_json(record: Any) -> Any:
    """Returns what `read` would make the same of, without the parts that are absent."""
    if isinstance(record, Part):
        found = {}
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            missing = value is field.default and value in (None, ABSENT)
            if field.name != "rest" and not missing:
                found[_key(field)] = as_json(value)
        return found | as_json(getattr(record, "rest", {}))
    if isinstance(record, Mapping):
        return {key: as_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [as_json(value) for value in record]
    return record


def make(wanted: type[T], values: Mapping[str, Any]) -> T:
    """Makes a part of what is known to be right; its `rest` takes other keys."""
    hints, known = _hints(wanted), {}
    for key in values.keys() & hints.keys() - {"rest"}:
        hint, value = hints[key], values[key]
        if get_origin(hint) in _UNIONS:  # with None
            hint = get_args(hint)[0]
        part = isinstance(hint, type) and issubclass(hint, Part)
        known[key] = make(hint, value) if part and isinstance(value, Mapping) else value
    others = {key: value for key, value in values.items() if key not in known}
    return wanted(**known, **({"rest": others} if others else {}))


def updated(record: T, values: Mapping[str, Any]) -> T:
    """Returns a part with some fields replaced, others added to its `rest`."""
    fields = dict(vars(record))
    rest = fields.pop("rest", {})
    return make(type(record), {**fields, **rest, **values})


def merged(first: Any, more: Any) -> Any:
    """Returns two parts of the same name as one; where both say something, `more`'s."""
    if first is not None and isinstance(more, Mapping):
        return {**first, **more}
    if first is not None and isinstance(more, Part):
        given = {k: v for k, v in vars(more).items() if v is not None}
        return dataclasses.replace(first, **given)
    return more


def named(key: str) -> Any:
    """A field that JSON calls what Python reserves, such as `class`."""
    return dataclasses.field(metadata={"key": key})


def _key(field: dataclasses.Field[Any]) -> str:
    return field.metadata.get("key", field.name)


@functools.cache
def _hints(wanted: Any) -> dict[str, Any]:
    return get_type_hints(wanted, include_extras=True)


def _read(hint: Any, value: Any, name: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in _UNIONS:  # with None
        return None if value is None else _read(parts[0], value, name)
    if origin is Annotated or hint in _PLAIN:
        kind: Kind = parts[1] if origin is Annotated else _PLAIN[hint]
        if not kind.fits(value):
            told = json.dumps(value)[:60]
            raise ValueError(f"`{name}` must be {kind.told}, it has {told}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"`{name}` must be a list")
        return [_read(parts[0], one, f"{name}[{i}]") for i, one in enumerate(value)]
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be an object" if name else "it is no object")
    if origin is dict:
        each = value.items()
        return {key: _read(parts[1], one, f"{name}.{key[:40]}") for key, one in each}
    return _read_fields(hint, value, f"{name}." if name else "")


def _read_fields(wanted: Any, value: Mapping[str, Any], above: str) -> Any:
    found, known = {}, set()
    for field in dataclasses.fields(wanted):
        key = _key(field)
        if field.name == "rest":
            continue
        known.add(key)
        if key in value:
            hint = _hints(wanted)[field.name]
            found[field.name] = _read(hint, value[key], f"{above}{key}")
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"it has no `{above}{key}`")
    equal = getattr(wanted, "EQUAL", ())
    if len({len(found[column]) for column in equal}) > 1:
        names = ", ".join(f"`{above}{column}`" for column in equal)
        raise ValueError(f"{names} differ in length")
    if "rest" in _hints(wanted):
        found["rest"] = {k: v for k, v in value.items() if k not in known}
    return wanted(**found)
