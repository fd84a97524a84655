"""Probability of the true class minus that of the best wrong one."""

from jaxrobust.report.html import Markup, table, tag
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results
from jaxrobust.results.analysis_schema import Gap, ProbabilityGap
from jaxrobust.results.npz import CLEAN


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Makes a table of the attacks, the twin's beside."""
    gaps = results.analyses and results.analyses.probability_gap
    if gaps is None:
        return []
    theirs = twin and twin.analyses and twin.analyses.probability_gap
    other = _by_label(theirs) if theirs else {}
    rows = []
    for label, gap in _by_label(gaps).items():
        beside = [other[label].all if label in other else None] if theirs else []
        rows.append([label, *map(_signed, [gap.all, gap.correct, *beside])])
    note = (
        "Probability of the true class minus that of the best wrong one, mean over "
        f"{gaps.n:,} images and over the {gaps.n_correct:,} that are correct "
        "before the attack."
    )
    heads = ["images", "all", "correct"] + ["twin, all"] * bool(theirs)
    caption = tag("figcaption", note, class_="below")
    shown = table(heads, rows, right=(1, 2, 3))
    return [tag("figure", tag("h3", "Probability gap"), shown, caption, class_="card")]


def _by_label(gaps: ProbabilityGap) -> dict[str, Gap]:
    return {CLEAN: gaps.clean, **{one.label: one for one in gaps.attacks}}


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
