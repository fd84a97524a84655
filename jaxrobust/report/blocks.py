"""What a page and a summary say alike, before it is HTML, Markdown or plain text."""

from collections.abc import Sequence
from typing import NamedTuple


class Title(NamedTuple):
    """The name of what follows; `level` 1 is that of the whole."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph; a `soft` one is about how to read the others."""

    text: str
    soft: bool = False


class Warn(NamedTuple):
    """A sentence that nobody should overlook, and what it is called, if anything."""

    text: str
    name: str = ""
    severe: bool = False


class Table(NamedTuple):
    """Rows under heads; columns `right` are numbers, the last row may count most."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    last_counts: bool = False


class CommandLine(NamedTuple):
    """A line to be run."""

    text: str


Block = Title | Text | Warn | Table | CommandLine
