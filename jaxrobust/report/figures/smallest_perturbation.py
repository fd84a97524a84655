"""What attacks without a radius leave within some: a table, and the whole curve."""

import numpy as np

from jaxrobust.report import drawing
from jaxrobust.report.drawing import NORMS
from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, card, details, table
from jaxrobust.report.source import Arrays
from jaxrobust.report.verdict import interval, percent
from jaxrobust.results import Results, npz

PLACE = Place.ATTACKS


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Makes a table of the radii, and draws the accuracy over all radii."""
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
    curves = _curves(results, arrays)
    if not rows:
        return curves
    heads = ["nearest mistake", "beyond", "accuracy", "95 % interval"]
    inside = table(heads, rows, right=(2, 3))
    return [details("Accuracy within radii", inside), *curves]


def _curves(results: Results, arrays: Arrays) -> list[Markup]:
    """Draws robust accuracy over the radius, a card per norm, from one run each."""
    cards = []
    for norm, name in NORMS.items():
        labels = [a.label for a in results.attacks if a.eps is None and a.norm == norm]
        labels = [one for one in labels if npz.distance(one) in arrays]
        if not labels:
            continue
        drawn, axes = drawing.make_axes()
        for color, label in zip(drawing.SERIES, labels, strict=False):
            robust = np.asarray(arrays[npz.robust(label)], bool)
            distance = np.asarray(arrays[npz.distance(label)], float)
            at = np.unique(np.append(distance[~robust], 0.0))
            # What no point fools stands at any radius.
            left = [100 * np.mean(robust | (distance > radius)) for radius in at]
            axes.step(at, left, where="post", label=drawing.short(label),
                      color=drawing.COLORS[color])  # fmt: skip
        axes.set_ylim(-2, 102)
        drawing.finish(axes, f"radius ({name})", "robust accuracy (%)")
        title = f"Robust accuracy over the radius, {name}"
        note = (
            "From the nearest mistake that attacks without a radius found of each "
            "image: an upper bound at every radius."
        )
        cards.append(card(drawing.to_svg(drawn, title), title, note))
    return cards
