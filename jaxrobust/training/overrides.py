"""Fields of a config from the command line: `--config.a.b=value`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxrobust import defenses, named_models
from jaxrobust._checks import did_you_mean
from jaxrobust.evaluation.text import literal, number, python, shown

_FLAG = re.compile(r"--?(no)?config\.([^=]*)(=.*)?", re.DOTALL)
_NUMBER = re.compile(r"-[\d.]")
_BOOLEANS: dict[str, bool] = {
    **dict.fromkeys(("true", "t", "1", "yes"), True),
    **dict.fromkeys(("false", "f", "0", "no"), False),
}
# Radii are numbers or text such as 8/255, whatever a config has there so far.
_RADII = ("eps", "step_size", "eps_range")
# Without a default, and yet not of any kind: a number for each channel.
_PER_CHANNEL = ("model.mean", "model.std")
# Tables whose names are free: a whole one can be given.
_OPEN = ("model", "label_optimizers", "eval.own_analyses")


class Override(NamedTuple):
    """One field as the command line sets it; no `text` where no value was given."""

    field: str
    text: str | None


def written(one: Override) -> str:
    """Returns the argument that `split` reads as this."""
    return f"--config.{one.field}" + ("" if one.text is None else f"={one.text}")


def split(argv: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Takes the overrides out of a command line; returns the other arguments, and them.

    `--config.a.b=value`, `--config.a.b value`, and for switches `--config.a.b` and
    `--noconfig.a.b`. Nothing after a lone `--` is touched.
    """
    rest, found = [], []
    words = list(argv)
    while words:
        word = words.pop(0)
        match = _FLAG.fullmatch(word)
        if word == "--":
            return [*rest, word, *words], found
        if match is None:
            rest.append(word)
            continue
        negated, field, text = match.groups()
        if text is not None:
            text = text[1:]
        elif negated:
            text = "false"
        elif words and (words[0][:1] != "-" or _NUMBER.match(words[0])):
            text = words.pop(0)
        found.append(Override(field, text))
    return rest, found


def apply(config: ConfigDict, overrides: Sequence[Override]) -> dict[str, Any]:
    """Sets fields of a config, in order; returns the values that were set, by field.

    Raises:
      ValueError: for fields that the config does not have (a line for each, with the
        nearest), or a value that is not of the field's kind.
    """
    more = _arguments(config, overrides)
    known = [*_names(config), *more]
    if wrong := [one.field for one in overrides if one.field not in known]:
        raise ValueError("; ".join(_unknown(name, known) for name in wrong))
    values = {}
    for field, text in overrides:
        *path, name = field.split(".")
        table: Any = config
        for step in path:
            table = table[step]
        if not isinstance(table, ConfigDict) or not (name in table or field in more):
            raise ValueError(_unknown(field, _names(config)))
        if name in table and not (table[name] is None and field in _PER_CHANNEL):
            values[field] = _value(field, text, table[name], table.get_type(name))
        else:
            values[field] = _argument(field, text, more.get(field))
        with table.ignore_type(), table.unlocked():
            table[name] = values[field]
    return values


def _arguments(config: ConfigDict, overrides: Sequence[Override]) -> dict[str, Any]:
    """Returns the defaults of what is taken and the config does not list, by field.

    By the network, and by the objective, that the config will name.
    """
    found: dict[str, Any] = {}
    for part, taken_by in (
        ("model", named_models.taken_by),
        ("objective", _taken_by_objective),
    ):
        table: Any = config.get(part, {})
        own = {
            one.field.removeprefix(f"{part}."): one.text
            for one in overrides
            if one.field.startswith(f"{part}.")
        }
        name = own.get("name", table.get("name"))
        if isinstance(name, str) and not all(field in table for field in own):
            for field, default in taken_by(name).items():
                if field not in table:
                    found[f"{part}.{field}"] = default
    return found


def _taken_by_objective(name: str) -> dict[str, Any]:
    """Returns the fields of an objective of ours, with their defaults."""
    if name not in defenses.FACTORIES:
        return {}
    options = defenses.options_of(name)
    # What the program fills in itself; a config counts epochs in place of steps.
    given = ("model", "attack", "name")
    return {
        field: default
        for field, default in options.items()
        if field not in given and not field.endswith("_steps")
    }


def _argument(field: str, text: str | None, default: Any) -> Any:
    """Reads an argument of a network: of its default's kind, or what Python reads."""
    if field in _PER_CHANNEL and default is None:
        default = (0.0,)
    kind = type(default)
    if default is not None and kind in (bool, int, float, str, tuple, list):
        return _value(field, text, default, kind)
    if text is None:
        raise ValueError(f"--config.{field} needs a value: --config.{field}=VALUE.")
    if "," in text or text.strip()[:1] in ("(", "["):
        return tuple(map(literal, map(str, _items(text))))
    return literal(text)


def _names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Lists every field, nested ones with dots."""
    names = []
    for name, value in config.items():
        names.append(f"{prefix}{name}")
        if isinstance(value, ConfigDict):
            names += _names(value, f"{prefix}{name}.")
    return names


def _unknown(field: str, known: Sequence[str]) -> str:
    return f"config has no field {shown(field)}. {did_you_mean(field, known)}"


def _value(field: str, text: str | None, default: Any, kind: type) -> Any:
    """Reads one value, of the kind of the field's default."""
    if isinstance(default, ConfigDict):
        return _table(field, text, default)
    if text is None:
        if kind is bool:
            return True
        raise ValueError(f"--config.{field} needs a value: --config.{field}=VALUE.")
    try:
        return read(text, default, kind, radius=field.split(".")[-1] in _RADII)
    except ValueError as error:
        raise ValueError(f"--config.{field} must be {error}") from None


def read(text: str, default: Any, kind: type, *, radius: bool = False) -> Any:
    """Reads a value of a `kind` that is no table; a radius may be text or a number.

    Items of lists are separated by commas, with or without brackets; nothing, or `[]`,
    is an empty list. Those of the default, the value so far, tell of what kind they
    are. The kind of None takes a number, true, false, none or text.
    """
    if kind in (list, tuple):
        items = _items(text)
        if radius and _equal(items, default):  # as the config writes them
            return default
        return kind(_item(one, default, radius) for one in items)
    if kind is type(None) or default is None:
        if text.lower() == "none":
            return None
        if kind is type(None):
            return text if radius else literal(text)
    if radius and kind in (int, float):
        return default if _equal([text], [default]) else text
    readers: Mapping[type, tuple[Callable[[str], Any], str]] = {
        bool: (lambda t: _BOOLEANS[t.lower()], "true or false"),
        int: (int, "a whole number"),
        float: (number, "a number"),
        str: (str, "text"),
    }
    if kind not in readers:
        raise ValueError(
            f"set in the config file: it is of the kind {kind.__name__}, which has no "
            f"form on the command line, got {shown(text)}."
        )
    reader, told = readers[kind]
    try:
        return reader(text)
    except (ValueError, KeyError):
        raise ValueError(f"{told}, got {shown(text)}.") from None


def _equal(items: Sequence[Any], default: Sequence[Any]) -> bool:
    """Says whether texts are the numbers of a default, where those are numbers."""
    if len(items) != len(default) or any(isinstance(d, str | bool) for d in default):
        return False
    try:
        return all(number(str(a)) == b for a, b in zip(items, default, strict=True))
    except ValueError:
        return False


def _items(text: str) -> list[Any]:
    """Returns the items of a list: text, or what Python reads of a quoted one."""
    plain = text.strip()
    if any(mark in plain for mark in "[(\"'"):
        try:
            found = python(plain)
            return list(found) if isinstance(found, list | tuple) else [found]
        except ValueError:
            pass  # [0, 8/255] is no Python literal
    for start, end in ("[]", "()"):
        if plain.startswith(start) and plain.endswith(end):
            plain = plain[1:-1].strip()
    if not plain:
        return []
    items = [item.strip() for item in plain.removesuffix(",").split(",")]
    if not all(items):
        raise ValueError(f"items separated by commas, got {shown(text)}.")
    return items


def _item(item: Any, default: Sequence[Any], radius: bool) -> Any:
    """Reads one item of a list as those of the default are."""
    kinds = {type(value) for value in default}
    if kinds == {int, float}:
        kinds = {float}
    if radius or kinds == {str}:
        return str(item)
    if len(kinds) == 1 and not kinds & {list, tuple}:
        [kind] = kinds
        try:
            return read(str(item), default[0], kind)
        except ValueError as error:
            raise ValueError(f"a list in which every item is {error}") from None
    return literal(item) if isinstance(item, str) else item


def _table(field: str, text: str | None, default: ConfigDict) -> ConfigDict:
    """Reads a whole table where its names are free; says what to do elsewhere."""
    if field == "eval.attacks":
        raise ValueError(
            "--config.eval.attacks is a table: say what to run with --attack "
            "NAME:option=value,... (repeatable), as in --attack pgd:eps=8/255,steps=50."
        )
    if field in _OPEN:
        try:
            found = python(text or "")
            return ConfigDict(dict(found.items()))
        except (ValueError, TypeError, AttributeError):
            raise ValueError(
                f"--config.{field} is a table: set one of its fields, or all of it as "
                f"in --config.{field}=\"{{'name': 1}}\", got {shown(text or '')}."
            ) from None
    first = next(iter(default), "FIELD")
    raise ValueError(
        f"--config.{field} is a table: set its fields, as in --config.{field}.{first}=."
    )
