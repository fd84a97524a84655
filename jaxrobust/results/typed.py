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
V = TypeVar("V")


class Kind(NamedTuple):
    """What one value must be: in words, and as a function that says whether it is."""

    told: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether it is a finite number that can be drawn; true and false are none."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < _LARGEST and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def one_of(names: Sequence[str]) -> Kind:
    """A text out of a few."""
    return Kind(f"one of {', '.join(names)}", lambda v: v in names)


_PLAIN = {
    str: Kind("a text", lambda v: isinstance(v, str)),
    bool: Kind("true or false", lambda v: isinstance(v, bool)),
    Any: Kind("anything", lambda v: True),
}
_FEW = Kind(
    f"a list of 1 to {_DRAWN}", lambda v: isinstance(v, list) and 0 < len(v) <= _DRAWN
)

Number = Annotated[float, Kind("a number", is_number)]
# Null where it was not finite.
Measured = Annotated[
    float, Kind("a number or null", lambda v: v is None or is_number(v))
]
Share = Annotated[float, Kind("a share of 1", lambda v: is_number(v) and 0 <= v <= 1)]
Radius = Annotated[float, Kind("a radius", lambda v: is_number(v) and v >= 0)]
Count = Annotated[
    int, Kind("a count", lambda v: is_number(v) and 0 <= v <= _MOST and v == int(v))
]
Pair = Annotated[Sequence[float], Kind("two numbers", _is_pair)]
# A list that can be drawn; where its parts are lists, all are equally long.
Few = Annotated[Sequence[V], _FEW]


def read(wanted: type[T], value: Any, name: str = "") -> T:
    """Makes a part of nested JSON; `name` is the value's in an error.

    Raises:
      ValueError: naming the first part that is not as it must be.
    """
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be an object" if name else "it is no object")
    above = f"{name}." if name else ""
    hints, fields = _hints(wanted), _fields(wanted)
    found = {}
    for key, field in fields.items():
        if key in value:
            found[field.name] = _value(hints[field.name], value[key], f"{above}{key}")
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"it has no `{above}{key}`")
    equal = getattr(wanted, "EQUAL", ())
    if len({len(found[column]) for column in equal}) > 1:
        names = ", ".join(f"`{above}{column}`" for column in equal)
        raise ValueError(f"{names} differ in length")
    if "rest" in hints:
        found["rest"] = {k: v for k, v in value.items() if k not in fields}
    return wanted(**found)


def _value(hint: Any, value: Any, name: str, null: str = "") -> Any:
    """Returns a value as its annotation wants it; `null` says that null would do."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in _UNIONS:  # with None
        return None if value is None else _value(parts[0], value, name, " or null")
    if origin is None and hint not in _PLAIN:
        return read(hint, value, name)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"`{name}` must be an object")
        each = value.items()
        return {key: _value(parts[1], one, f"{name}.{key[:40]}") for key, one in each}
    if origin is list and not isinstance(value, list):
        raise ValueError(f"`{name}` must be a list")
    if origin is not list:
        kind: Kind = parts[1] if origin is Annotated else _PLAIN[hint]
        if not kind.fits(value):
            told = json.dumps(value)[:60]
            raise ValueError(f"`{name}` must be {kind.told}{null}, it has {told}")
        if kind is not _FEW:
            return value
        parts = get_args(parts[0])
    found = [_value(parts[0], one, f"{name}[{i}]") for i, one in enumerate(value)]
    if len({len(row) for row in found if isinstance(row, list)}) > 1:
        raise ValueError(f"the lists in `{name}` differ in length")
    return found


def as_json(record: Any) -> Any:
    """Returns what `read` would make the same of, without the parts that are absent."""
    if isinstance(record, Part):
        found = {}
        for key, field in _fields(type(record)).items():
            value = getattr(record, field.name)
            if not (value is field.default and value in (None, ABSENT)):
                found[key] = as_json(value)
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


@functools.cache
def _fields(wanted: type[Part]) -> dict[str, dataclasses.Field[Any]]:
    """Returns the fields by their keys in JSON, without `rest`."""
    fields = dataclasses.fields(wanted)
    return {f.metadata.get("key", f.name): f for f in fields if f.name != "rest"}


@functools.cache
def _hints(wanted: type[Part]) -> dict[str, Any]:
    return get_type_hints(wanted, include_extras=True)
