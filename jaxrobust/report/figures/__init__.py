"""What the page shows of each analysis, under the name it has in `evaluation/analyses`.

Each file has `figure(results, arrays, twin) -> list[Markup]`, empty where nothing was
measured: `results` are those of the evaluation, `twin` the twin's, if there is one. It
stands under the heading Analyses, or where the file's `PLACE` says.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxrobust.report.figures.places import Place as Place
from jaxrobust.report.html import Content, Markup, table, tag
from jaxrobust.report.source import Arrays, RunFiles
from jaxrobust.results import npz
from jaxrobust.results.schema import ANALYSES

OwnFigure = Callable[[Mapping[str, Any], Arrays], Content]
OwnFigures = Mapping[str, OwnFigure]
NONE: OwnFigures = {}

_FILES = [importlib.import_module(f"{__name__}.{name}") for name in ANALYSES]


def at(place: Place, source: RunFiles) -> list[Markup]:
    """Returns what the page shows at one place."""
    if source.results is None:
        return []
    twin = source.twin.results if source.twin else None
    found: list[Markup] = []
    for file in _FILES:
        if getattr(file, "PLACE", Place.ANALYSES) is place:
            found += file.figure(source.results, source.arrays, twin)
    return found


def analyses(source: RunFiles, figures: OwnFigures = NONE) -> list[Markup]:
    """Returns those of the section Analyses, with analyses from outside last."""
    found = at(Place.ANALYSES, source)
    own_results = source.results.own_analyses if source.results else None
    for label, numbers in (own_results or {}).items():
        if figure := figures.get(label):
            content = figure(numbers, npz.under_label(label, source.arrays))
        else:
            rows = [
                [name, f"{v:.6g}" if isinstance(v, float) else str(v)[:200]]
                for name, v in numbers.items()
            ]
            content = table(["what", "found"], rows, right=(1,))
        title = tag("h3", label.replace("_", " "))
        found.append(tag("figure", title, content, class_="card"))
    return found
