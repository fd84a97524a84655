"""Robust accuracy over the queries that black-box attacks may ask."""

from jaxrobust.report import drawing
from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, card
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results

PLACE = Place.CURVES


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws a line per attack."""
    del arrays, twin
    curves = results.queries or []
    if not curves:
        return []
    drawn, axes = drawing.make_axes()
    for color, one in zip(drawing.SERIES, curves, strict=False):
        shares = [100 * share for share in one.robust_accuracy]
        drawing.plot(axes, one.queries, shares, color, drawing.short(one.label))
    axes.set_xscale("log")
    axes.set_ylim(-2, 102)
    drawing.finish(axes, "queries per image", "robust accuracy (%)")
    title = "Robust accuracy over queries"
    medians = "; ".join(
        f"{drawing.short(one.label)} {one.median:,}" for one in curves if one.median
    )
    note = (
        f"Each point is a run of its own with so many queries, on {curves[0].n:,} "
        "images: an upper bound."
    )
    if medians:
        note += f" Half of the images that fell had fallen by: {medians} queries."
    return [card(drawing.to_svg(drawn, title), title, note)]
