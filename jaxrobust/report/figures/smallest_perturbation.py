"""What attacks without a radius leave within some."""

from jaxrobust.report.drawing import NORMS
from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, details, table
from jaxrobust.report.source import Arrays
from jaxrobust.report.verdict import interval, percent
from jaxrobust.results import Results

PLACE = Place.ATTACKS


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Makes a table of the radii."""
    rows = [
        [
            found.label,
            f"{NORMS[found.norm]} {one.eps_text}",
            percent(one.robust_accuracy),
            interval(one.ci95),
        ]
        for found in results.attacks
        for one in found.accuracy_within or ()
    ]
    if not rows:
        return []
    heads = ["nearest mistake", "beyond", "accuracy", "95 % interval"]
    inside = table(heads, rows, right=(2, 3))
    return [details("Accuracy within radii", inside)]
