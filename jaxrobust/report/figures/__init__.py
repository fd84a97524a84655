"""What the page shows of each analysis, under the name it has in `evaluation/analyses`.

Each file has `figure(results, arrays, twin) -> list[Markup]`, empty where nothing was
measured: `results` are those of the evaluation, `twin` the twin's, if there is one.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jaxrobust.report.figures import (
    class_ranks,
    corruptions,
    curve,
    gradient_masking,
    growth,
    probability_gap,
    representations,
    smallest_perturbation,
)
from jaxrobust.report.html import Content, Markup, table, tag
from jaxrobust.report.source import Arrays, Source
from jaxrobust.results import Results

Figure = Callable[[Results, Arrays, Results | None], list[Markup]]
OwnFigure = Callable[[Mapping[str, Any], Arrays], Content]
OwnFigures = Mapping[str, OwnFigure]
NONE: OwnFigures = {}

TABLE: Mapping[str, Figure] = {
    "smallest_perturbation": smallest_perturbation.figure,
    "curve": curve.figure,
    "growth": growth.figure,
    "class_ranks": class_ranks.figure,
    "probability_gap": probability_gap.figure,
    "representations": representations.figure,
    "corruptions": corruptions.figure,
    "gradient_masking": gradient_masking.figure,
}
# These stand in sections of their own; all others under the heading Analyses.
ELSEWHERE = (
    "smallest_perturbation",
    "curve",
    "growth",
    "corruptions",
    "gradient_masking",
)


def of(source: Source, name: str) -> list[Markup]:
    """Returns what the page shows of one analysis."""
    if source.results is None:
        return []
    twin = source.twin.results if source.twin else None
    return TABLE[name](source.results, source.arrays, twin)


def others(source: Source, figures: OwnFigures = NONE) -> list[Markup]:
    """Returns those of the section Analyses, with analyses from outside last."""
    names = [name for name in TABLE if name not in ELSEWHERE]
    found = [card for name in names for card in of(source, name)]
    own_results = source.results.own_analyses if source.results else None
    for label, numbers in (own_results or {}).items():
        found.append(_card(label, numbers, source.arrays, figures.get(label)))
    return found


def _card(
    label: str,
    results: Mapping[str, Any],
    arrays: Arrays,
    figure: OwnFigure | None,
) -> Markup:
    """Shows what one analysis from outside found, by its own figure if there is one."""
    start = f"{label}/"
    ours = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
    if figure is not None:
        content: Content = figure(results, ours)
    else:
        rows = [[name, _told(value)] for name, value in results.items()]
        content = table(["what", "found"], rows, right=(1,))
    return tag("figure", tag("h3", label.replace("_", " ")), content, class_="card")


def _told(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:200]
