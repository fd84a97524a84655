"""What is proved, what is broken, and what lies between."""

from collections.abc import Sequence

from jaxrobust.report import drawing, verdict
from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, card, tag
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results
from jaxrobust.results.analysis_schema import Certified, SmoothedAccuracy

PLACE = Place.CURVES


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws a bar of proved, unknown and broken images, and the smoothed curve."""
    del arrays, twin
    cards = []
    if results.certified is not None:
        cards.append(_proofs(results.certified))
    if results.smoothed is not None:
        cards.append(_smoothed(results.smoothed, results))
    return cards


def _proofs(found: Certified) -> Markup:
    title = f"Proved at {drawing.NORMS[found.norm]} {found.eps_text}"
    told = verdict.proved(found)
    if found.proved is None:
        return tag("figure", tag("h3", title), tag("p", told), class_="card")
    share, top = found.proved, found.unbroken
    shares = [("proved", "robust", share)]
    if top is None:
        shares.append(("unknown", "line", 1 - share))
    else:
        shares.append(("unknown", "line", max(0.0, top - share)))
        shares.append(("broken", "third", 1 - max(top, share)))
    return card(_bar(shares, title), title, told)


def _bar(shares: Sequence[tuple[str, str, float]], title: str) -> str:
    drawn, axes = drawing.make_axes((5.0, 1.4))
    left = 0.0
    for label, color, share in shares:
        of = drawing.COLORS[color]
        axes.barh([0], [share], left=left, color=of, label=label)
        left += share
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    drawing.finish(axes, "share of images", "")
    return drawing.to_svg(drawn, title)


def _smoothed(found: SmoothedAccuracy, results: Results) -> Markup:
    """The certified accuracy, beside the curve of an L2 attack if there is one."""
    rows = [("smoothed, certified", "robust", found.radii, found.certified_accuracy)]
    curve = results.curve
    if curve is not None and curve.norm == "l2":
        rows.append(
            ("attacked, not smoothed", "third", curve.eps, curve.robust_accuracy)
        )
    title = f"Randomised smoothing, sigma {found.sigma:g}"
    svg = drawing.lines(rows, xlabel="L2 radius", ylabel="accuracy", description=title)
    told = (
        "Certified accuracy of the smoothed network (Cohen et al. 2019) over "
        f"{found.n:,} images, {found.draws:,} draws each; a radius is wrong with a "
        f"probability of {found.alpha:g} at most. It abstains on "
        f"{verdict.percent(found.abstained)}."
    )
    return card(svg, title, told)
