"""The section of the page about the attacks: one table, and what stands behind it."""

import math
from collections.abc import Sequence

from jaxrobust.report import blocks, figures, forms, verdict
from jaxrobust.report.html import Markup, Section, details, explained, table, tag
from jaxrobust.report.source import RunFiles
from jaxrobust.report.verdict import interval, percent
from jaxrobust.results import Results
from jaxrobust.results.npz import CLEAN
from jaxrobust.results.schema import AttackSummary, Clean, StageSummary, WorstCase

STAGES = (
    "Each attack meets only the images that are left, and an image leaves at once when "
    "it falls. Gradients and forward passes are counted in images; a gradient has its "
    "own forward pass in it. Seconds include compilation."
)


_NO_SIZES = ("bounds", "stochastic", "eot_samples")


def attacks(source: RunFiles) -> Section:
    """The table of attacks, the twin's beside."""
    results = source.results
    if results is None:
        return None
    twin = source.twin.results if source.twin else None
    paired = verdict.paired(results)
    return [
        tag("h2", "Attacks"),
        *forms.as_html([attack_table(source, results)]),
        tag("p", explained(note(results)), class_="soft below"),
        tag("p", explained(_what_they_are(results)), class_="soft"),
        tag("p", paired, class_="soft") if paired else Markup(),
        *_stages(results, twin),
        *figures.at(figures.Place.ATTACKS, source),
        *_details(results),
    ]


def attack_table(source: RunFiles, results: Results) -> blocks.Table:
    """Returns a row per attack, the clean images first and the worst case last."""
    twin = source.twin.results if source.twin else None
    heads = ["attack", "accuracy", "95 % interval", "threat", "n", "seconds"]
    if twin and source.twin:
        heads.append(f"twin ({source.twin.objective})")
    last_counts = bool(verdict.with_radius(results))
    return blocks.Table(heads, _rows(results, twin), (1, 2, 4, 5, 6), last_counts)


def _rows(results: Results, twin: Results | None) -> list[list[str]]:
    theirs: dict[str, float] = {}
    if twin:
        theirs = {a.label: a.robust_accuracy for a in twin.attacks}
        theirs[CLEAN] = twin.clean.accuracy
        theirs["worst case"] = twin.worst_case.robust_accuracy
        others = twin.other_threats or ()
        theirs |= {one.label: one.robust_accuracy for one in others}

    def row(
        label: str, threat: str, share: float, found: Clean | AttackSummary | WorstCase
    ) -> list[str]:
        seconds = "" if found.seconds is None else f"{found.seconds:.1f}"
        cells = [label, percent(share), interval(found.ci95), threat]
        cells += [f"{found.n:,}", seconds]
        return cells + ([percent(theirs.get(label))] if twin else [])

    rows = [row(CLEAN, "", results.clean.accuracy, results.clean)]
    for found in results.attacks:
        rows.append(row(found.label, _threat(found), found.robust_accuracy, found))
    for found in results.pending or ():
        blank = [""] * (3 if twin else 2)
        rows.append([found.label, "not run", "", found.name, *blank])
    for found in results.other_threats or ():
        rows.append(row(found.label, "per image", found.robust_accuracy, found))
    if verdict.with_radius(results):
        worst = results.worst_case
        rows.append(row("worst case", "per image", worst.robust_accuracy, worst))
    return rows


def note(results: Results) -> str:
    """Says how to read the table."""
    told = f"Suite {results.suite}. " if results.suite else ""
    told += (
        "An image counts as robust in the worst case if it is classified correctly as "
        "it is and under every attack. Intervals are Wilson's."
    )
    if others := results.other_threats:
        names = verdict.listed([one.threat for one in others])
        told += (
            f" What is no ball of a norm ({names}) does not count in it, and has a "
            "worst case of its own."
        )
    if any(one.eps is None and not one.threat for one in results.attacks):
        told += (
            " Attacks of any size look for the nearest mistake however far it is, so "
            "they do not count in the worst case; see the accuracy within radii."
        )
    return told


def _what_they_are(results: Results) -> str:
    """Names what ran, norms too, for the page to explain."""
    names = [one.name for one in results.attacks]
    norms = [verdict.NORMS[a.norm] for a in results.attacks if not a.threat]
    sources = ["transfer" for one in results.attacks if one.source]
    told = ", ".join(dict.fromkeys([*names, *sources, *norms]))
    return f"What they are: {told}." if told else ""


def _threat(found: AttackSummary) -> str:
    """Says how far an attack goes, in which version, and where its images come from."""
    threat = f"{verdict.NORMS[found.norm]} {found.written}"
    if found.eps is None:
        median = found.median_distance
        known = median is not None and not math.isnan(median)
        nearest = f"median {median:.3g}" if known else "none found"
        threat = f"{verdict.NORMS[found.norm]}, any size, {nearest}"
    if found.threat:
        sizes = (f"{k} {v}" for k, v in found.rest.items() if k not in _NO_SIZES)
        threat = ", ".join([found.threat, *sizes])
    if found.version is not None:
        threat += f", {found.version} version"
    if found.steps is not None:
        threat += f", {found.steps} steps"
    if found.attack is not None and found.source is not None:  # a transfer
        threat += f", {found.attack} on {found.source}"
    return threat


def _size(value: float | None) -> str:
    """Writes a size; older files lack those of L0."""
    return "" if value is None else f"{value:.4g}"


def _details(results: Results) -> list[Markup]:
    """Why each adaptive attack was chosen, and how large the perturbations are."""
    why = [(tag("dt", a.label), tag("dd", a.why)) for a in results.attacks if a.why]
    sizes = [
        [a.label, *(_size(getattr(a.mean_perturbation, n)) for n in verdict.NORMS)]
        for a in results.attacks
        if a.mean_perturbation
    ]
    parts = [details("Why these attacks", tag("dl", why))] if why else []
    if sizes:
        heads = ["mean size of perturbation", *verdict.NORMS.values()]
        inside = table(heads, sizes, right=tuple(range(1, len(heads))))
        parts.append(details("Size of the perturbations", inside))
    return parts


def _stages(results: Results, twin: Results | None) -> list[Markup]:
    """Returns a table per ensemble among the attacks, the twin's shares beside."""
    others = {attack.label: attack.stages for attack in twin.attacks} if twin else {}
    before = results.clean.accuracy, (twin or results).clean.accuracy
    parts = []
    for attack in results.attacks:
        if not attack.stages:
            continue
        title = f"{verdict.called(attack)}, attack by attack"
        version = attack.version or "standard"
        threat = f" {verdict.of_threat(attack)}, version {version}"
        parts += [
            tag("h3", title, tag("span", threat, class_="soft"), class_="above"),
            _stage_table(attack.stages, others.get(attack.label), before),
        ]
        if replaced := attack.replaced:
            said = f"Not as published: {'; '.join(replaced)}."
            parts.append(tag("p", said, class_="note below"))
    return [*parts, tag("p", explained(STAGES), class_="soft below")] if parts else []


def _stage_table(
    ours: Sequence[StageSummary],
    theirs: Sequence[StageSummary] | None,
    before: tuple[float, float],
) -> Markup:
    """Makes the table; `before` are the clean accuracies, the twin's second."""
    heads = ["after", "accuracy", "", "points", "seconds", "gradients", "forwards"]
    left = before[0]
    rows = [["no attack", percent(left), _bar(left, css="clean"), "", "", "", ""]]
    for stage in ours:
        share = stage.robust_accuracy
        lost = f"{100 * (share - left):+.1f}" if share < left else ""
        cost = f"{stage.seconds:.1f}", f"{stage.gradients:,}", f"{stage.forwards:,}"
        rows.append([stage.name, percent(share), _bar(share, left), lost, *cost])
        left = share
    if theirs:
        heads.append("twin")
        others = {stage.name: stage.robust_accuracy for stage in theirs}
        shares = [before[1], *(others.get(stage.name) for stage in ours)]
        for row, share in zip(rows, shares, strict=True):
            row.append(percent(share))
    return table(heads, rows, right=(1, *range(3, len(heads))))


def _bar(share: float, before: float = 0.0, css: str = "left") -> Markup:
    """Draws a share, and in a paler colour what was there before."""
    parts = [
        tag("i", style=f"width:{100 * part:.2f}%", class_=name)
        for name, part in ((css, share), ("lost", before - share))
        if part > 0
    ]
    return tag("div", parts, class_="bar", aria_hidden="true")
