"""Class names and file names as one line of text, whatever a disk or an array holds."""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_LONGEST = 256


def printable(text: str) -> str:
    r"""Writes what is no visible character as Python would: a line break as `\n`.

    So a name stays in its line and can be written as UTF-8 (bytes that are no text
    reach Python as lone surrogates). Blanks at the ends, which readers of text files
    strip, become `\x20`.
    """
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
    inner = shown.strip(" ")  # not a pattern: " +$" takes the square of the blanks
    start = shown.find(inner)
    return r"\x20" * start + inner + r"\x20" * (len(shown) - start - len(inner))


def some(names: Iterable[Any], most: int = 5) -> str:
    """The first of many names or numbers, with dots for the others."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + " ..." * (len(listed) > most)


def class_names(raw: Iterable[str], source: str) -> tuple[str, ...]:
    """Returns the names of classes as they are shown and saved, in the same order.

    One that is empty, very long, or that of two classes is refused.
    """
    found: dict[str, int] = {}
    for label, name in enumerate(raw):
        shown = normal(name)
        if not name:
            raise ValueError(f"{source}: the name of class {label} is empty")
        if len(shown) > _LONGEST:
            raise ValueError(
                f"{source}: the name of class {label} has {len(shown)} characters, "
                f"{shown[:20]!r} ...; at most {_LONGEST} make sense"
            )
        if shown in found:
            raise ValueError(
                f"{source}: classes {found[shown]} and {label} are both called "
                f"{shown!r}; give each its own name"
            )
        found[shown] = label
    return tuple(found)


def normal(name: str) -> str:
    """Returns a class name as it is shown; other systems may write it otherwise."""
    return printable(unicodedata.normalize("NFC", name))


def order_hint(names: Sequence[str]) -> str | None:
    """Says so where names end in numbers and their order is not that of the numbers."""
    parts = [re.fullmatch(r"(\D*)(\d+)", name) for name in names]
    numbers = [int(m[2]) for m in parts if m]
    if len(numbers) < len(names) or len({m[1] for m in parts if m}) != 1:
        return None
    pairs = zip(itertools.pairwise(names), itertools.pairwise(numbers), strict=True)
    for (before, after), (low, high) in pairs:
        if low > high:
            return (
                "class folders are numbered in the order of their text, not of their "
                f"numbers: {before!r} comes before {after!r} (as in torchvision); "
                "leading zeros make both orders the same"
            )
    return None
