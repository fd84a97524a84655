"""By how much each stage of a network enlarges a perturbation."""

import numpy as np

from jaxrobust.report import drawing
from jaxrobust.report.html import Markup, card
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results
from jaxrobust.results.schema_of_analyses import Growth


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws the ratio of each stage, the twin's beside."""
    del arrays
    ratios = results.growth
    if ratios is None:
        return []
    drawn = draw(ratios, twin.growth if twin else None)
    note = (
        "By how much each stage enlarges a perturbation: the change of its output "
        f"over that of its input, mean over {ratios.n:,} images. Below 1 the "
        "perturbation shrinks."
    )
    return [card(drawn, "Perturbation growth ratio", note)]


def draw(ratios: Growth, twin: Growth | None) -> str:
    """Draws the growth ratio of each stage, L1 solid and L2 hatched."""
    figure, axes = drawing.make_axes()
    drawn = [("this network", "robust", ratios)]
    if twin and twin.stages == ratios.stages:
        drawn.append(("its twin", "clean", twin))
    at = np.arange(len(ratios.stages))
    bars = [(who, c, f, norm) for who, c, f in drawn for norm in ("l1", "l2")]
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
    axes.axhline(1, color=drawing.COLORS["soft"], linewidth=1, linestyle=":")
    axes.set_xticks(at, ratios.stages)
    drawing.finish(axes, "", "growth ratio", legend=False)
    drawing.add_legend(axes, 2)
    return drawing.to_svg(figure, "Perturbation growth ratio of each stage")
