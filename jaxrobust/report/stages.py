"""What each attack of AutoAttack has left of the images, and what it cost."""

from collections.abc import Sequence

from jaxrobust.report import verdict
from jaxrobust.report.html import Markup, table, tag
from jaxrobust.report.verdict import percent
from jaxrobust.results import Results
from jaxrobust.results.schema import Stage

NOTE = (
    "Each attack meets only the images that are left, and an image leaves at once when "
    "it falls. Gradients and forward passes are counted in images; a gradient has its "
    "own forward pass in it. Seconds include compilation."
)


def stages(results: Results, twin: Results | None) -> list[Markup]:
    """Returns a table per ensemble among the attacks, the twin's shares beside.

    Args:
      results: of the evaluation.
      twin: of the twin network, if there is one.
    """
    found = [attack for attack in results.attacks if attack.stages]
    if not found:
        return []
    others = {attack.label: attack for attack in twin.attacks} if twin else {}
    parts = []
    for attack in found:
        other = others.get(attack.label)
        before = results.clean.accuracy, (twin or results).clean.accuracy
        version = attack.version or "standard"
        title = f"{verdict.called(attack)}, attack by attack"
        threat = f"{verdict.of_threat(attack)}, version {version}"
        parts += [
            tag("h3", title, tag("span", f" {threat}", class_="soft"), class_="above"),
            _table(attack.stages or (), other.stages if other else None, before),
        ]
        if replaced := attack.replaced:
            said = f"Not as published: {'; '.join(replaced)}."
            parts.append(tag("p", said, class_="note below"))
    return [*parts, tag("p", NOTE, class_="soft below")]


def _table(
    ours: Sequence[Stage],
    theirs: Sequence[Stage] | None,
    before: tuple[float, float],
) -> Markup:
    """Makes the table; `before` are the clean accuracies, the twin's second."""
    heads = ["after", "accuracy", "", "points", "seconds", "gradients", "forwards"]
    others = {stage.name: stage.robust_accuracy for stage in theirs or ()}
    left = before[0]
    rows = [["no attack", percent(left), _bar(left, css="clean"), "", "", "", ""]]
    for stage in ours:
        share = stage.robust_accuracy
        rows.append(
            [
                stage.name,
                percent(share),
                _bar(share, left),
                f"{100 * (share - left):+.1f}" if share < left else "",
                f"{stage.seconds:.1f}",
                f"{stage.gradients:,}",
                f"{stage.forwards:,}",
            ]
        )
        left = share
    if theirs:
        heads.append("twin")
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
