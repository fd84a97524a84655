"""Drawings as SVG text that takes its colours from the page."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from jaxrobust.report.html import visible

# Drawn in these colours, shown in the page's, light or dark.
COLORS = {
    "ink": "#010101",
    "soft": "#020202",
    "line": "#030303",
    "clean": "#040404",
    "robust": "#050505",
    "third": "#060606",
    "fourth": "#070707",
    "fifth": "#080808",
    "sixth": "#090909",
    "seventh": "#0a0a0a",
    "eighth": "#0b0b0b",
}
SERIES = tuple(COLORS)[3:]  # those of data
SIZE = (5.0, 3.0)
LONGEST_NAME = 24
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0", "l0_pixels": "L0 (pixels)"}


def make_axes(size: tuple[float, float] = SIZE) -> tuple[Figure, Any]:
    """Makes an empty drawing of a size in inches."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLORS["line"])
    axes.tick_params(colors=COLORS["soft"], labelsize=9, length=3)
    axes.grid(axis="y", color=COLORS["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Figure, description: str) -> str:
    """Renders; text stays text, and each colour becomes a variable of the page."""
    buffer = io.StringIO()
    options: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": description,
        "text.parse_math": False,  # names of classes may have dollars
    }
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # pyright: ignore[reportAttributeAccessIssue]
    with mpl.rc_context(options), warnings.catch_warnings():
        # The page's own fonts draw the text.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for size in ("width", "height"):
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    for name, color in COLORS.items():
        text = text.replace(color, f"var(--{name})")
    label = description.replace("&", "and").replace("<", "").replace('"', "'")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def short(name: str, longest: int = LONGEST_NAME) -> str:
    """A name in one line of at most so many characters, as a label of a drawing."""
    text = visible(name)
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    # Legends leave out what starts with an underscore.
    return f"\N{HAIR SPACE}{text}" if text.startswith("_") else text


def plot(axes: Any, x: Any, y: Any, color: str, label: str | None = None) -> None:
    """Draws a line with a mark at each value."""
    color = COLORS[color]
    axes.plot(x, y, color=color, label=label, linewidth=1.8, marker="o", markersize=4)


def mark(axes: Any, height: float, label: str | None = None) -> None:
    """Draws a dotted line across, to compare with."""
    axes.axhline(height, color=COLORS["soft"], linewidth=1, linestyle=":", label=label)


def finish(axes: Any, xlabel: str, ylabel: str, *, columns: int = 3) -> None:
    """Labels the axes; names the series above, where they hide nothing, in columns."""
    axes.set_xlabel(xlabel, color=COLORS["soft"], fontsize=9.5)
    axes.set_ylabel(ylabel, color=COLORS["soft"], fontsize=9.5)
    if columns:
        axes.legend(
            frameon=False,
            labelcolor=COLORS["ink"],
            fontsize=9,
            handlelength=1.5,
            columnspacing=1.4,
            ncols=columns,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.2,
        )


def lines(
    series: Sequence[tuple[str, str, Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    description: str,
    percent: bool = False,
    size: tuple[float, float] = SIZE,
) -> str:
    """Draws series over an axis: label, colour name (`--` makes it dashed), x and y.

    The `description` is for readers who cannot see it; `percent` makes shares 0 to 100.
    """
    figure, axes = make_axes(size)
    for label, color, x, y in series:
        values = np.asarray(y, float) * (100 if percent else 1)
        axes.plot(
            x,
            values,
            label=label,
            color=COLORS[color.removesuffix("--")],
            linestyle="--" if color.endswith("--") else "-",
            linewidth=1.8,
            marker="o" if len(values) <= 30 else None,
            markersize=3.5,
        )
    axes.set_ylim((-2, 102) if percent else (0, None))
    finish(axes, xlabel, ylabel, columns=3 if len(series) > 1 else 0)
    return to_svg(figure, description)
