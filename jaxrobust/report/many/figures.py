"""Curves of many runs, one colour per group; bands are standard deviations."""

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.report import drawing
from jaxrobust.report.html import Markup, Section, card, tag
from jaxrobust.report.many.groups import RunGroup, Spread, over, spread
from jaxrobust.report.source import RunFiles

POINTS = 200  # of a line, at most
SIZE = (7.0, 3.4)
BANDS = "Lines are means over the runs of a row above, bands their standard deviation."
_STYLES = ("-", "--", ":", "-.")  # after all colours were used once
TRAINING = (
    ("Held out, attacked", "validation/robust_accuracy", "accuracy (%)"),
    ("Held out, clean", "validation/accuracy", "accuracy (%)"),
    ("Training loss", "loss", "loss (nats)"),
)
GROWTH = (
    "By how much each stage enlarges a perturbation: the change of its output over "
    "that of its input. Below 1 the perturbation shrinks."
)


class Line(NamedTuple):
    """A group's numbers over places on the axis; `order` is its place in the table."""

    label: str
    order: int
    points: Mapping[float, Spread]


def robustness(groups: Sequence[RunGroup]) -> Section:
    """Robust accuracy over the radius, a drawing per norm."""
    cards = []
    for norm, name in drawing.NORMS.items():

        def shares(files: RunFiles, norm: str = norm) -> dict[float, float | None]:
            curve = files.results and files.results.curve
            if not curve or curve.norm != norm:
                return {}
            return dict(zip(curve.eps, curve.robust_accuracy, strict=True))

        found = [over(group, shares) for group in groups]
        radii = sorted({eps for points in found for eps in points})
        lines = _lines(groups, [_placed(points, radii) for points in found])
        if lines:
            title = f"Robust accuracy over the radius, {name}"
            ticks = [_written(groups, norm, eps) for eps in radii]
            axis = f"eps ({name}), not to scale", "robust accuracy (%)"
            svg = _draw(lines, title, axis, ticks=ticks)
            note = f"{BANDS} An honest curve falls to zero."
            cards.append(card(svg, title, note))
    return [tag("h2", "Curves"), *cards] if cards else None


def _written(groups: Sequence[RunGroup], norm: str, eps: float) -> str:
    """Returns a radius as a config writes it."""
    for run in (run for group in groups for run in group.runs):
        curve = run.files.results and run.files.results.curve
        if curve and curve.norm == norm and eps in curve.eps:
            return curve.eps_text[list(curve.eps).index(eps)]
    return f"{eps:.3g}"


def training(groups: Sequence[RunGroup]) -> Section:
    """Held-out accuracies and the loss over the epochs, below each other."""
    parts: list[Markup] = []
    for title, key, ylabel in TRAINING:

        def values(files: RunFiles, key: str = key) -> dict[float, float | None]:
            rows = files.metrics
            return {
                round(r.get("epoch", r["step"]), 6): r[key] for r in rows if key in r
            }

        found = [_thinned(over(group, values)) for group in groups]
        if lines := _lines(groups, found):
            svg = _draw(lines, f"{title} over training", ("epoch", ylabel))
            parts += [tag("h3", title), Markup(svg)]
    if not parts:
        return None
    note = tag("figcaption", BANDS)
    return [tag("h2", "Training"), tag("figure", *parts, note, class_="card")]


def growth(groups: Sequence[RunGroup]) -> Section:
    """Growth ratios over the stages, and over blocks N and steps K of the attack."""
    cards = []
    for norm in ("l1", "l2"):
        found = [over(group, _growth(norm)) for group in groups]
        stages = sorted({stage for points in found for stage in points})
        title = f"Growth ratio of each stage, {drawing.NORMS[norm]}"
        lines = _lines(groups, [_placed(points, stages) for points in found])
        if lines:
            svg = _draw(lines, title, ("", "growth ratio"), ticks=stages, level=1)
            cards.append(card(svg, title, GROWTH))
            cards += _over_blocks(groups, stages, norm)
    if not cards:
        return None
    return [tag("h2", "Growth of perturbations"), tag("div", cards, class_="pair")]


def _growth(norm: str) -> Any:
    def ratios(files: RunFiles) -> dict[str, float | None]:
        found = files.results and files.results.growth
        values = getattr(found, norm) if found else ()
        return dict(zip(found.stages, values, strict=True)) if found else {}

    return ratios


def _over_blocks(
    groups: Sequence[RunGroup], stages: Sequence[str], norm: str
) -> list[Markup]:
    """Draws the figure of the SSP paper: a drawing per stage, N and K on the axis.

    N are blocks per stage, K the steps of the training attack (0 without one). A line
    is the groups that are the same but for these.
    """
    kinds: dict[str, dict[tuple[int, int], list[RunFiles]]] = {}
    for group in groups:
        place = _blocks_and_steps(group.config)
        if place and any(_growth(norm)(run.files) for run in group.runs):
            places = kinds.setdefault(_kind(group.config), {})
            places.setdefault(place, []).extend(run.files for run in group.runs)
    at = sorted({place for places in kinds.values() for place in places})
    if len(at) < 2:
        return []
    parts: list[Markup] = []
    for stage in stages:
        lines = []
        for order, (kind, places) in enumerate(kinds.items()):
            points = {}
            for place, runs in places.items():
                values = [_growth(norm)(run).get(stage) for run in runs]
                if known := [value for value in values if value is not None]:
                    points[place] = spread(known)
            lines.append(Line(kind, order, _placed(points, at)))
        ticks = [f"N={n}\nK={k}" for n, k in at]
        title = f"Growth ratio of {stage} over N and K, {drawing.NORMS[norm]}"
        svg = _draw(lines, title, ("", "growth ratio"), ticks=ticks, level=1)
        parts += [tag("h3", stage), Markup(svg)]
    note = "N blocks per stage, trained with K steps of the attack (0: without)."
    title = tag("h3", f"Growth over depth and attack, {drawing.NORMS[norm]}")
    return [tag("figure", title, *parts, tag("figcaption", note), class_="card")]


def _blocks_and_steps(config: Mapping[str, Any]) -> tuple[int, int] | None:
    blocks = config.get("model", {}).get("blocks")
    steps = config.get("attack", {}).get("steps", 0)
    if not isinstance(blocks, int) or not isinstance(steps, int):
        return None
    plain = config.get("objective", {}).get("name") == "standard"
    return blocks, 0 if plain else steps


def _kind(config: Mapping[str, Any]) -> str:
    """Names what a network is, without its depth: `ssp2`."""
    model = config.get("model", {})
    return str(model.get("integrator") or model.get("name"))


def _placed(points: Mapping[Any, Spread], at: Sequence[Hashable]) -> dict[float, Any]:
    """Puts points at the places of their keys on the axis."""
    return {float(i): points[key] for i, key in enumerate(at) if key in points}


def _thinned(points: Mapping[float, Spread]) -> dict[float, Spread]:
    """Leaves out points where they lie too close to be seen."""
    keys = sorted(points)
    at = np.unique(np.linspace(0, len(keys) - 1, POINTS).round().astype(int))
    return {keys[i]: points[keys[i]] for i in at} if len(keys) > POINTS else {**points}


def _lines(groups: Sequence[RunGroup], found: Sequence[Mapping[float, Spread]]) -> Any:
    """Returns the lines of those groups that have one, each in its group's colour."""
    each = enumerate(zip(groups, found, strict=True))
    return [Line(group.name, i, points) for i, (group, points) in each if points]


def _draw(
    lines: Sequence[Line],
    description: str,
    labels: tuple[str, str],
    *,
    ticks: Sequence[str] | None = None,
    level: float | None = None,
) -> str:
    """Draws lines with bands; those of shares (labels with %) from 0 to 100."""
    percent = 100 if "%" in labels[1] else 1
    legend = (len(lines) + 1) // 2
    figure, axes = drawing.make_axes((SIZE[0], SIZE[1] + 0.2 * legend))
    colors = list(itertools.product(_STYLES, drawing.SERIES))
    for label, order, points in lines:
        style, name = colors[order % len(colors)]
        x = sorted(points)
        mean = percent * np.asarray([points[i].mean for i in x])
        off = percent * np.asarray([points[i].deviation or 0.0 for i in x])
        color = drawing.COLORS[name]
        marker = "o" if len(x) <= 30 else None
        shown = drawing.short(label, 40)
        axes.plot(x, mean, style, color=color, label=shown, marker=marker, markersize=4)
        if off.any():
            band = {"color": color, "alpha": 0.16, "linewidth": 0}
            axes.fill_between(x, mean - off, mean + off, **band)
    if level is not None:
        drawing.mark(axes, level)
    if ticks is not None:
        axes.set_xticks(range(len(ticks)), ticks)
    axes.set_ylim((-2, 102) if percent > 1 else (0, None))
    drawing.finish(axes, *labels, columns=2)
    return drawing.to_svg(figure, description)
