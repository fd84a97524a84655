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
from jaxrobust.report.source import Arrays, RunFiles
from jaxrobust.results import Results

Figure = Callable[[Results, Arrays, Results | None], list[Markup]]
OwnFigure = Callable[[Mapping[str, Any], Arrays], Content]
OwnFigures = Mapping[str, OwnFigure]
NONE: OwnFigures = {}

# These stand in sections of their own ...
ELSEWHERE: Mapping[str, Figure] = {
    "smallest_perturbation": smallest_perturbation.figure,
    "curve": curve.figure,
    "growth": growth.figure,
    "corruptions": corruptions.figure,
    "gradient_masking": gradient_masking.figure,
}
# ... and these under the heading Analyses.
TOGETHER: Mapping[str, Figure] = {
    "class_ranks": class_ranks.figure,
    "probability_gap": probability_gap.figure,
    "representations": representations.figure,
}
TABLE = {**ELSEWHERE, **TOGETHER}


def of(source: RunFiles, name: str) -> list[Markup]:
    """Returns what the page shows of one analysis."""
    if source.results is None:
        return []
    twin = source.twin.results if source.twin else None
    return TABLE[name](source.results, source.arrays, twin)


def others(source: RunFiles, figures: OwnFigures = NONE) -> list[Markup]:
    """Returns those of the section Analyses, with analyses from outside last."""
    found = [card for name in TOGETHER for card in of(source, name)]
    own_results = source.results.own_analyses if source.results else None
    for label, numbers in (own_results or {}).items():
        start = f"{label}/"
        arrays = {k: v for k, v in source.arrays.items() if k.startswith(start)}
        arrays = {k.removeprefix(start): v for k, v in arrays.items()}
        if figure := figures.get(label):
            content = figure(numbers, arrays)
        else:
            rows = [
                [name, f"{v:.6g}" if isinstance(v, float) else str(v)[:200]]
                for name, v in numbers.items()
            ]
            content = table(["what", "found"], rows, right=(1,))
        title = tag("h3", label.replace("_", " "))
        found.append(tag("figure", title, content, class_="card"))
    return found
