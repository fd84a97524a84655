"""Robust accuracy over the radius."""

from typing import Any

import numpy as np

from jaxrobust.report import drawing
from jaxrobust.report.html import Markup, card
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results
from jaxrobust.results.schema_of_analyses import Curve


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws the curve, the twin's beside."""
    curve = results.curve
    if curve is None:
        return []
    classes = max(len(arrays.get("class_names", ())), 2)
    drawn = draw(curve, twin.curve if twin else None, 1 / classes)
    note = (
        f"PGD with {curve.steps} steps on {curve.n:,} images; bands are 95 % "
        "intervals. An honest curve falls to zero."
    )
    return [card(drawn, "Robust accuracy over the radius", note)]


def draw(curve: Curve, twin: Curve | None, chance: float) -> str:
    """Draws robust accuracy over the radius, with its intervals and chance."""
    figure, axes = drawing.make_axes()
    drawn = [("this network", "robust", curve)]
    if twin and twin.eps == curve.eps:
        drawn.append(("its twin", "clean", twin))
    at = np.arange(len(curve.eps))
    for label, color, found in drawn:
        low, high = np.asarray(found.ci95, float).T * 100
        band: Any = {"color": drawing.COLORS[color], "alpha": 0.16, "linewidth": 0}
        axes.fill_between(at, low, high, **band)
        values = np.asarray(found.robust_accuracy, float) * 100
        drawing.plot(axes, at, values, color, label)
    dotted: Any = {"color": drawing.COLORS["soft"], "linewidth": 1, "linestyle": ":"}
    axes.axhline(100 * chance, label=f"chance ({chance:.0%})", **dotted)
    axes.set_xticks(at, curve.eps_text)
    axes.set_ylim(-2, 102)
    norm = drawing.NORMS[curve.norm]
    drawing.finish(axes, f"eps ({norm}), not to scale", "robust accuracy (%)")
    return drawing.to_svg(figure, "Robust accuracy over the radius of the attack")
