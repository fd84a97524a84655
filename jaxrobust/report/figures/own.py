"""An analysis from outside the package: its own figure, or its numbers as a table."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxrobust.report.html import Content, Markup, table, tag
from jaxrobust.report.source import Arrays


def card(
    label: str,
    results: Mapping[str, Any],
    arrays: Arrays,
    figure: Callable[[Mapping[str, Any], Arrays], Content] | None,
) -> Markup:
    """Shows what one analysis found.

    Args:
      label: of it.
      results: what it wrote.
      arrays: of evaluation.npz, its own among them as `LABEL/NAME`.
      figure: makes its picture, where the caller's config names the analysis.
    """
    ours = {
        name.removeprefix(f"{label}/"): array
        for name, array in arrays.items()
        if name.startswith(f"{label}/")
    }
    if figure is not None:
        content: Content = figure(results, ours)
    else:
        rows = [[name, _told(value)] for name, value in results.items()]
        content = table(["what", "found"], rows, right=(1,))
    return tag("figure", tag("h3", label.replace("_", " ")), content, class_="card")


def _told(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:200]
