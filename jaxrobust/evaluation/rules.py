"""What a field of a config may hold, as rules that are put together."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxrobust import named_code
from jaxrobust._checks import did_you_mean
from jaxrobust.evaluation.text import parse_radius

# What int32 counters on the devices hold.
_MOST = 2**31 - 1


class Rule(NamedTuple):
    """What a value must be, in words and as a function that says whether it is."""

    says: str
    holds: Callable[[Any], bool]
    known: Sequence[str] = ()


def whole(least: int = 0, most: int = _MOST) -> Rule:
    """A whole number in [least, most]."""
    return Rule(
        f"a whole number from {least} to {most}",
        lambda v: type(v) is int and least <= v <= most,
    )


def number(
    least: float = 0.0,
    most: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> Rule:
    """A finite number in [least, most]; without an end where `above` or `below`."""
    low = f"above {least:g}" if above else f"of at least {least:g}"
    high = f" and {'below' if below else 'at most'} {most:g}" * (most < math.inf)

    def holds(v: Any) -> bool:
        inside = type(v) in (int, float) and least <= v <= most and abs(v) < math.inf
        return inside and not ((above and v == least) or (below and v == most))

    return Rule(f"a finite number {low}{high}", holds)


def choice(known: Sequence[str]) -> Rule:
    """One of some names."""
    named = [repr(name) if name == "" else name for name in known]
    return Rule(f"one of {', '.join(named)}", lambda v: v in known, known)


def choice_or_code(known: Sequence[str]) -> Rule:
    """One of some names, or `package.module:function` of the caller's own."""
    rule = choice(known)
    return rule._replace(holds=lambda v: rule.holds(v) or named_code.names(v))


def each(rule: Rule, *, filled: bool = False, rising: bool = False) -> Rule:
    """A list or tuple of values that a rule holds for."""

    def holds(values: Any) -> bool:
        if not isinstance(values, list | tuple) or not all(map(rule.holds, values)):
            return False
        return not (filled and not values) and not (
            rising and list(values) != sorted(values)
        )

    order = ", from the lowest to the highest" * rising
    least = ", at least one" * filled
    return Rule(f"a list, each {rule.says}{order}{least}", holds)


def number_or_each(rule: Rule) -> Rule:
    """None, a number, or a list with one for each channel."""
    return Rule(
        f"None or {rule.says}, or a list of such",
        lambda v: v is None or rule.holds(v) or each(rule).holds(v),
    )


def _is_radius(value: Any) -> bool:
    try:
        parse_radius(value)
    except ValueError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, str)


FLAG = Rule("True or False", lambda v: isinstance(v, bool))
TEXT = Rule("a text", lambda v: isinstance(v, str) and "\0" not in v)
NAME = Rule("a text, not empty", lambda v: TEXT.holds(v) and bool(v.strip()))
TABLE_OF_FIELDS = Rule("a table of fields", lambda v: isinstance(v, Mapping))
RADIUS = Rule("a number of at least 0 or a fraction such as '8/255'", _is_radius)
PLAIN = Rule("plain data (finite numbers, texts, lists of them)", _is_plain)


def broken(name: str, value: Any, rule: Rule) -> list[str]:
    """Returns a line where a value is not as a rule says, else nothing."""
    if rule.holds(value):
        return []
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    near = did_you_mean(value, rule.known, 0.6) if isinstance(value, str) else ""
    told = f"`{name}` must be {rule.says}, got {shown}; set --config.{name}. {near}"
    return [told.rstrip()]
