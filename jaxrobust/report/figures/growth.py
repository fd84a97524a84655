"""By how much each stage of a network enlarges a perturbation."""

import numpy as np

from jaxrobust.report import drawing
from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, card
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results

PLACE = Place.CURVES


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws the ratio of each stage, L1 solid and L2 paler, the twin's beside."""
    ratios = results.growth
    if ratios is None:
        return []
    drawn, axes = drawing.make_axes()
    networks = [("this network", "robust", ratios)]
    if twin and twin.growth and twin.growth.stages == ratios.stages:
        networks.append(("its twin", "clean", twin.growth))
    at = np.arange(len(ratios.stages))
    bars = [(*network, norm) for network in networks for norm in ("l1", "l2")]
    width = 0.8 / len(bars)
    for number, (who, color, found, norm) in enumerate(bars):
        axes.bar(
            at + (number - (len(bars) - 1) / 2) * width,
            np.asarray(getattr(found, norm), float),
            width * 0.92,
            color=drawing.COLORS[color],
            alpha=1 if norm == "l1" else 0.5,
            label=f"{who}, {norm.upper()}",
        )
    drawing.mark(axes, 1)
    axes.set_xticks(at, ratios.stages)
    drawing.finish(axes, "", "growth ratio", columns=2)
    svg = drawing.to_svg(drawn, "Perturbation growth ratio of each stage")
    note = (
        "By how much each stage enlarges a perturbation: the change of its output "
        f"over that of its input, mean over {ratios.n:,} images. Below 1 the "
        "perturbation shrinks."
    )
    return [card(svg, "Perturbation growth ratio", note)]
