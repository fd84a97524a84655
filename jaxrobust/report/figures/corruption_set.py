"""Accuracy on a published set of corrupted images."""

from jaxrobust.report.figures.corruptions import rows_of
from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, table, tag
from jaxrobust.report.source import Arrays
from jaxrobust.report.verdict import interval, percent
from jaxrobust.results import Results
from jaxrobust.results.analysis_schema import CorruptionSet

PLACE = Place.CORRUPTIONS


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Accuracy and error over a reference's, by corruption and severity."""
    del arrays, twin
    found = results.corruption_set
    if found is None:
        return []
    severities = [one.severity for one in found.by_severity]
    heads = ["images", "mean", "95 % interval", *(["CE"] if found.reference else [])]
    heads += [f"severity {s}" if i == 0 else f"{s}" for i, s in enumerate(severities)]
    # By the row's place: the first is clean, then corruptions, their mean, the worst.
    ces = ["", *(_ratio(one.ce) for one in found.by_name), _ratio(found.mce), ""]
    rows = []
    for (label, at, share, ends), ce in zip(rows_of(found), ces, strict=False):
        cells = [label, percent(share), interval(ends)]
        cells += [ce] if found.reference else []
        rows.append([*cells, *(at.get(s, "") for s in severities)])
    last = "worst" if found.worst_case else None
    return [
        tag("h3", f"Published set: {found.folder}"),
        table(heads, rows, right=range(1, len(heads)), last_class=last),
        tag("p", _note(found), class_="soft below"),
    ]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _note(found: CorruptionSet) -> str:
    """Says of which images the numbers are, what is missing, and what CE is."""
    said = (
        f"{found.n:,} of the {found.of:,} images of the folder at each severity; the "
        "rows clean and worst case are of the test images of this evaluation. Of the "
        f"corruptions: {found.note}."
    )
    if found.left_out:
        said += f" Also in the folder, not counted: {', '.join(found.left_out)}."
    if found.reference:
        said += f" CE is the error over that of {found.reference}; its mean is the mCE."
    return said
