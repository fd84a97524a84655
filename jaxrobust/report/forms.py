"""Blocks as HTML, as plain text for terminals, and as Markdown for pull requests."""

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence

from jaxrobust.report import html
from jaxrobust.report.blocks import Block, CommandLine, Table, Text, Title, Warn
from jaxrobust.report.html import Markup, tag, visible

WIDTH = 88  # of paragraphs in a terminal; tables are as wide as they are
# What Markdown, or GitHub's, would take for its own.
_MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\|*`"}
    | {c: f"&#{ord(c)};" for c in "&<>@$"}  # @ would call people, $ make formulas
)
_EDGES = re.compile(r"(?<!\w)_|_(?!\w)|~(?=~)|\](?=[(\[:])")


def as_html(blocks: Iterable[Block]) -> list[Markup]:
    """Makes elements of the page."""
    return [_html(block) for block in blocks]


def _html(block: Block) -> Markup:
    match block:
        case Title(text, level):
            return tag(f"h{level}", text)
        case Text(text, soft):
            css = "soft" if soft else None
            return tag("p", html.explained(text), class_=css)
        case Warn(text, name, severe):
            css = "flag severe" if severe else "flag" if name else "note"
            head = [tag("b", name), ": "] if name else None
            return tag("p", head, html.explained(text), class_=css)
        case Table(heads, rows, right, last_counts):
            last = "worst" if last_counts else None
            return html.table(heads, rows, right=right, last_class=last)
        case CommandLine(text):
            return tag("pre", text, class_="card")


def as_text(blocks: Iterable[Block]) -> str:
    """Makes lines for a terminal, without colours."""
    return _joined(blocks, _text)


def _text(block: Block) -> str:
    match block:
        case Title(text, level):
            text = visible(text)
            return f"{text}\n{('=' if level == 1 else '-') * len(text)}"
        case Text(text):
            return _filled(text)
        case Warn(text, name, severe):
            mark = "!! " if severe else "!  "
            return _filled(f"{name}: {text}" if name else text, mark, "   ")
        case Table(heads, rows, right):
            return "\n".join(_aligned(heads, rows, right))
        case CommandLine(text):
            return f"    {visible(text)}"


def _filled(text: str, first: str = "", later: str = "") -> str:
    return textwrap.fill(
        visible(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
    )


def _aligned(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]
) -> list[str]:
    """Pads cells to columns."""
    lines = [[visible(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [padded[0], "-" * max(map(len, padded)), *padded[1:]]


def as_markdown(blocks: Iterable[Block]) -> str:
    """Makes Markdown as GitHub reads it."""
    return _joined(blocks, _markdown)


def _markdown(block: Block) -> str:
    match block:
        case Title(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Text(text, soft):
            return f"<sub>{_plain(text)}</sub>" if soft else _plain(text)
        case Warn(text, name, severe):
            told = f"**{_plain(name)}**: {_plain(text)}" if name else _plain(text)
            return f"> {'🛑' if severe else '⚠️'} {told}"
        case Table(heads, rows, right, last_counts):
            lines = [[_plain(cell) for cell in row] for row in rows]
            if last_counts:
                lines[-1] = [f"**{cell}**" if cell else "" for cell in lines[-1]]
            ends = ["---:" if i in right else "---" for i in range(len(heads))]
            table = [[_plain(head) for head in heads], ends, *lines]
            return "\n".join(f"| {' | '.join(line)} |" for line in table)
        case CommandLine(text):
            return f"```sh\n{visible(text).replace('```', '` ` `')}\n```"


def _plain(text: str) -> str:
    """Writes text of which Markdown takes nothing for its own."""
    text = visible(text).translate(_MARKDOWN)
    return _EDGES.sub(lambda found: f"\\{found[0]}", text)


def _joined(blocks: Iterable[Block], write: Callable[[Block], str]) -> str:
    return "\n\n".join(map(write, blocks)) + "\n"


FORMS: dict[str, Callable[[Iterable[Block]], str]] = {
    "text": as_text,
    "markdown": as_markdown,
}


def tell(text: str) -> None:
    """Prints text; what the terminal has no letters for is a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))
