"""Accuracy per class."""

from collections.abc import Sequence

import numpy as np

from jaxrobust.report import drawing
from jaxrobust.report.html import Markup, card
from jaxrobust.results.schema import OfClass

MANY_CLASSES = 20


def figure(rows: Sequence[OfClass]) -> list[Markup]:
    """Draws clean and worst-case accuracy, and names the extremes of many classes."""
    if not rows:
        return []
    note = "Worst case over all attacks."
    if len(rows) > MANY_CLASSES:
        order = sorted(rows, key=lambda r: r.robust_accuracy)
        ends = (", ".join(r.name for r in o) for o in (order[:5], order[-5:]))
        note = "{} Least robust: {}. Most robust: {}.".format(note, *ends)
    return [card(draw(rows), "Accuracy per class", note)]


def draw(rows: Sequence[OfClass]) -> str:
    """Draws clean and worst-case accuracy per class; sorted lines if there are many."""
    clean = np.asarray([row.accuracy for row in rows], float) * 100
    robust = np.asarray([row.robust_accuracy for row in rows], float) * 100
    blue, red = drawing.COLORS["clean"], drawing.COLORS["robust"]
    if len(rows) > MANY_CLASSES:
        figure, axes = drawing.make_axes()
        order = np.argsort(robust)
        axes.plot(clean[order], ".", color=blue, label="clean", markersize=4)
        axes.plot(robust[order], color=red, label="worst case")
        axes.set_ylim(-2, 102)
        drawing.finish(axes, "classes, least robust first", "accuracy (%)")
    else:
        figure, axes = drawing.make_axes((drawing.SIZE[0], 0.8 + 0.3 * len(rows)))
        at = np.arange(len(rows))
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", color=drawing.COLORS["line"], linewidth=0.7)
        axes.barh(at - 0.19, clean, 0.36, color=blue, label="clean")
        axes.barh(at + 0.19, robust, 0.36, color=red, label="worst case")
        axes.set_yticks(at, [drawing.short(row.name) for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        drawing.finish(axes, "accuracy (%)", "")
    return drawing.to_svg(figure, "Clean and robust accuracy of each class")
