"""Accuracy under common corruptions."""

from collections.abc import Mapping, Sequence

from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, image, table, tag
from jaxrobust.report.source import Arrays
from jaxrobust.report.verdict import interval, percent
from jaxrobust.results import Results, npz
from jaxrobust.results.analysis_schema import Corruptions

PLACE = Place.CORRUPTIONS

Row = tuple[str, Mapping[int, str], float, Sequence[float]]


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Clean, corrupted and attacked accuracy in one table, and pictures."""
    found = results.corruptions
    if found is None:
        return []
    other = twin and twin.corruptions
    theirs = {label: share for label, _, share, _ in rows_of(other)} if other else {}
    severities = [one.severity for one in found.by_severity]
    heads = ["images", "mean", "95 % interval", *(["twin, mean"] if theirs else [])]
    heads += [f"severity {s}" if i == 0 else f"{s}" for i, s in enumerate(severities)]
    rows = []
    for label, at, share, ends in rows_of(found):
        cells = [label, percent(share), interval(ends)]
        cells += [percent(theirs.get(label))] if theirs else []
        rows.append([*cells, *(at.get(s, "") for s in severities)])
    note = (
        f"Accuracy on the same {found.n:,} images: as they are, under each "
        "corruption of Hendrycks and Dietterich (2019)"
        + (" and under every attack" if found.worst_case else "")
        + ". Intervals are Wilson's; that of a mean counts each image once. "
        f"Corruptions: {found.note}."
    )
    last = "worst" if found.worst_case else None
    return [
        table(heads, rows, right=range(1, len(heads)), last_class=last),
        tag("p", note, class_="soft below"),
        _pictures(arrays),
    ]


def rows_of(found: Corruptions) -> list[Row]:
    """Returns per row its label, accuracy per severity, mean and interval."""
    rows: list[Row] = [("clean", {}, found.clean.accuracy, found.clean.ci95)]
    for one in found.by_name:
        own = [row for row in found.rows if row.name == one.name]
        at = {row.severity: percent(row.accuracy) for row in own}
        rows.append((_title(one.name), at, one.accuracy, one.ci95))
    at = {one.severity: percent(one.accuracy) for one in found.by_severity}
    rows.append(("all corruptions", at, found.mean_accuracy, found.ci95))
    if worst := found.worst_case:
        label = "worst case of attacks"
        rows.append((label, {}, worst.robust_accuracy, worst.ci95))
    return rows


def _title(name: str) -> str:
    return name.replace("_", " ").replace("jpeg", "JPEG")


def _pictures(arrays: Arrays) -> Markup:
    """One image as it is and under each corruption."""
    found = npz.CorruptionsArrays.of(arrays)
    if found is None:
        return Markup()
    shown = [("clean", found.corruption_clean)]
    names = map(str, found.corruption_names)
    shown += zip(map(_title, names), found.corruption_images, strict=True)
    cells = [tag("div", image(p / 255, t), tag("span", t)) for t, p in shown]
    caption = f"One image under each corruption, severity {found.corruption_shown}."
    below = tag("figcaption", caption, class_="below")
    return tag("figure", tag("div", cells, class_="corrupted"), below, class_="card")
