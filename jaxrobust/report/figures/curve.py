"""Robust accuracy over the radius."""

import numpy as np

from jaxrobust.report import drawing
from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, card
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results, npz

PLACE = Place.CURVES


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws the curve with its intervals and chance, the twin's beside."""
    curve = results.curve
    if curve is None:
        return []
    drawn, axes = drawing.make_axes()
    curves = [("this network", "robust", curve)]
    if twin and twin.curve and twin.curve.eps == curve.eps:
        curves.append(("its twin", "clean", twin.curve))
    at = np.arange(len(curve.eps))
    for label, color, found in curves:
        low, high = np.asarray(found.ci95, float).T * 100
        band = drawing.COLORS[color]
        axes.fill_between(at, low, high, color=band, alpha=0.16, linewidth=0)
        values = np.asarray(found.robust_accuracy, float) * 100
        drawing.plot(axes, at, values, color, label)
    chance = 1 / max(len(npz.class_names(arrays)), 2)
    drawing.mark(axes, 100 * chance, f"chance ({chance:.0%})")
    axes.set_xticks(at, curve.eps_text)
    axes.set_ylim(-2, 102)
    norm = drawing.NORMS[curve.norm]
    drawing.finish(axes, f"eps ({norm}), not to scale", "robust accuracy (%)")
    svg = drawing.to_svg(drawn, "Robust accuracy over the radius of the attack")
    note = (
        f"PGD with {curve.steps} steps on {curve.n:,} images; bands are 95 % "
        "intervals. An honest curve falls to zero."
    )
    return [card(svg, "Robust accuracy over the radius", note)]
