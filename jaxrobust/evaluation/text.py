"""Values that are written as text, on a command line."""

import ast
from fractions import Fraction
from typing import Any


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
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
