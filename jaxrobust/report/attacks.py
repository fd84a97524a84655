"""The section of the page about the attacks: one table, and what stands behind it."""

import math

from jaxrobust.report import figures, stages, verdict
from jaxrobust.report.html import Markup, table, tag
from jaxrobust.report.source import Source
from jaxrobust.report.verdict import interval, percent
from jaxrobust.results import Results
from jaxrobust.results.schema import Attack, Clean, WorstCase

Section = list[Markup] | Markup | None


def attacks(source: Source) -> Section:
    """The table of attacks, the twin's beside."""
    results = source.results
    if results is None:
        return None
    twin = source.twin.results if source.twin else None
    heads = ["attack", "accuracy", "95 % interval", "threat", "n", "seconds"]
    if twin and source.twin:
        heads.append(f"twin ({source.twin.objective})")
    rows = _rows(results, twin)
    last = "worst" if verdict.with_radius(results) else None
    return [
        tag("h2", "Attacks"),
        table(heads, rows, right=(1, 2, 4, 5, 6), last_class=last),
        tag("p", _note(results), class_="soft below"),
        *(tag("p", text, class_="soft") for text in (verdict.paired(results),) if text),
        *stages.stages(results, twin),
        *figures.of(source, "smallest_perturbation"),
        _reasons(results),
        _sizes(results),
    ]


def _rows(results: Results, twin: Results | None) -> list[list[str]]:
    """Returns a row per attack, the clean images first and the worst case last."""
    theirs: dict[str, float] = {}
    if twin:
        theirs = {a.label: a.robust_accuracy for a in twin.attacks}
        theirs["clean"] = twin.clean.accuracy
        theirs["worst case"] = twin.worst_case.robust_accuracy

    def row(
        label: str, threat: str, share: float, found: Clean | Attack | WorstCase
    ) -> list[str]:
        seconds = "" if found.seconds is None else f"{found.seconds:.1f}"
        cells = [label, percent(share), interval(found.ci95), threat]
        cells += [f"{found.n:,}", seconds]
        return cells + ([percent(theirs.get(label))] if twin else [])

    rows = [row("clean", "", results.clean.accuracy, results.clean)]
    for found in results.attacks:
        rows.append(row(found.label, _threat(found), found.robust_accuracy, found))
    for found in results.pending or ():
        blank = [""] * (3 if twin else 2)
        rows.append([found.label, "not run", "", found.name, *blank])
    if verdict.with_radius(results):
        worst = results.worst_case
        rows.append(row("worst case", "per image", worst.robust_accuracy, worst))
    return rows


def _note(results: Results) -> str:
    """Says how to read the table."""
    note = f"Suite {results.suite}. " if results.suite else ""
    note += (
        "An image counts as robust in the worst case if it is classified correctly as "
        "it is and under every attack. Intervals are Wilson's."
    )
    if len(verdict.with_radius(results)) < len(results.attacks):
        note += (
            " Attacks of any size look for the nearest mistake however far it is, so "
            "they do not count in the worst case; see the accuracy within radii."
        )
    return note


def _threat(found: Attack) -> str:
    """Says how far an attack goes, in which version, and where its images come from."""
    norm = verdict.NORMS[found.norm]
    if found.eps is None:
        median = found.median_distance
        nearest = (
            "none found"
            if median is None or math.isnan(median)
            else f"median {median:.3g}"
        )
        threat = f"{norm}, any size, {nearest}"
    else:
        threat = f"{norm} {found.written}"
    if found.version is not None:
        threat += f", {found.version} version"
    if found.steps is not None:
        threat += f", {found.steps} steps"
    if found.attack is not None and found.source is not None:  # a transfer
        threat += f", {found.attack} on {found.source}"
    return threat


def _reasons(results: Results) -> Markup:
    """Why each adaptive attack was chosen."""
    told = [a for a in results.attacks if a.why]
    if not told:
        return Markup()
    rows = [(tag("dt", a.label), tag("dd", a.why)) for a in told]
    return tag("details", tag("summary", "Why these attacks"), tag("dl", rows))


def _sizes(results: Results) -> Markup:
    """How large the perturbations are."""
    measured = [a for a in results.attacks if a.mean_perturbation]
    if not measured:
        return Markup()
    rows = [
        [a.label, *(f"{getattr(a.mean_perturbation, n):.4g}" for n in verdict.NORMS)]
        for a in measured
    ]
    heads = ["mean size of perturbation", *verdict.NORMS.values()]
    inside = table(heads, rows, right=(1, 2, 3))
    return tag("details", tag("summary", "Size of the perturbations"), inside)
