"""Values that are written as text: radii in configs, options on a command line."""

import ast
import math
from fractions import Fraction
from typing import Any

_LARGEST = 10**9  # far above the size of any image; float32 holds its square
_LONGEST = 64


def parse_radius(value: str | float, name: str = "eps") -> float:
    """Reads `'8/255'`, `'0.3'` or a number of a config's field `name`.

    Raises:
      ValueError: if it is no number or fraction, negative, not finite or above 1e9.
    """
    return float(exact(value, name))


def exact(value: str | float, name: str = "eps") -> Fraction:
    """Reads a radius without rounding; see `parse_radius`."""
    try:
        radius = Fraction(-1) if isinstance(value, bool) else _read(value)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        radius = Fraction(-1)
    if not 0 <= radius <= _LARGEST:
        raise ValueError(
            f"`{name}` must be a number of at least 0 or a fraction such as '8/255', "
            f"got {value!r}."
        )
    return radius


def _read(value: str | float) -> Fraction:
    if not isinstance(value, str):
        return Fraction(value)
    parts = value.split("/")
    # As floats first: written out exactly, 1e-999999999 would take all memory.
    sizes = [float(part) for part in parts]
    if len(value) > _LONGEST or len(parts) > 2 or not all(map(math.isfinite, sizes)):
        raise ValueError
    if not sizes[-1] and len(parts) == 2:
        raise ZeroDivisionError
    if not sizes[0]:
        return Fraction(0)
    top, bottom, *_ = *map(Fraction, parts), Fraction(1)
    return top / bottom


def times(eps: str, share: float) -> str:
    """Multiplies a radius and writes it the same way: 4/255 for half of 8/255."""
    numerator, slash, denominator = eps.partition("/")
    return f"{float(numerator) * share:.6g}{slash}{denominator}"


def literal(text: str) -> Any:
    """Reads a number, true, false, none, a bracketed list, or text."""
    plain = text.strip()
    if plain.lower() in ("true", "false"):
        return plain.lower() == "true"
    if plain.lower() == "none":
        return None
    for reader in (int, float, python):
        try:
            return reader(plain)
        except ValueError:
            continue
    return text


def number(text: str) -> float:
    """Reads `0.1`, `1e-3` or `1/10`; ValueError for all else, not-a-number too."""
    try:
        value = float(Fraction(text)) if "/" in text else float(text)
    except (ZeroDivisionError, OverflowError):
        raise ValueError(text) from None
    if value != value:
        raise ValueError(text)
    return value


def python(text: str) -> Any:
    """Reads a Python literal; nothing is run. ValueError for anything else."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(text) from None


def shown(text: str) -> str:
    """Returns text as a message may show it: on one line, and not all of a long one."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
