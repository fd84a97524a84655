"""Runs against each other: image by image, and with each other's adversarial images."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from jaxrobust.report import verdict
from jaxrobust.report.html import Markup, Section, details, table, tag
from jaxrobust.report.many.groups import EvaluatedRun, names
from jaxrobust.results.schema import Comparison, Paired, sources_of

MANY = 30  # rows that a page can show at once
FEW = 10  # reasons
TESTS = (
    "A - B in points, with 95 % intervals, on the images that both met. "
    f"{verdict.PAIRED} Adjusted: p of the worst case by Holm's method over all rows, "
    "so that the chance of one false difference in the table stays 5 %. A test tells "
    "two trained networks apart; whether one method is better than another is for the "
    "deviation over seeds to say."
)
NO_TRANSFER = (
    "No run was shown another's adversarial images. To see who fools whom, into a "
    "folder of its own, so that the other results stay: jaxrobust evaluate NEW "
    "--checkpoint TARGET --attack transfer:attack=pgd,source=OTHER"
)


class Pair(NamedTuple):
    """Two runs by their names; what comparing them found, or why they cannot be.

    `adjusted` is the worst case's p, adjusted for the number of pairs.
    """

    a: str
    b: str
    found: Comparison | None = None
    adjusted: float | None = None
    why: str = ""


def tests(pairs: Sequence[Pair]) -> Section:
    """Every two runs, image by image."""
    if not pairs:
        return None
    heads = ["A", "B", "images", "clean", "", "p", "worst case", "", "p", "adjusted"]
    rows = [_row(pair, pair.found) for pair in pairs if pair.found]
    parts: list[Markup] = [tag("h2", "Paired tests")]
    if rows:
        inside = table(heads, rows, right=range(2, len(heads)))
        many = f"{len(rows)} pairs"
        parts.append(details(many, inside) if len(rows) > MANY else inside)
        parts.append(tag("p", TESTS, class_="soft below"))
    reasons: dict[str, list[str]] = {}
    for pair in pairs:
        if not pair.found:
            reasons.setdefault(pair.why, []).append(f"{pair.a} and {pair.b}")
    for why, who in list(reasons.items())[:FEW]:
        more = f" and {len(who) - 3} more" if len(who) > 3 else ""
        text = f"Not compared: {'; '.join(who[:3])}{more}. {why}"
        parts.append(tag("p", text, class_="soft below"))
    return parts


def _row(pair: Pair, found: Comparison) -> list[str]:
    worst = found.worst_case if found.same_attacks else None
    cells = [*_test(found.clean), *_test(worst)]
    if worst is None:
        cells[3] = "other attacks" if found.worst_case else "no attack"
    adjusted = "" if pair.adjusted is None else verdict.p_value(pair.adjusted)
    return [pair.a, pair.b, f"{found.n:,}", *cells, adjusted]


def _test(one: Paired | None) -> list[str]:
    if one is None:
        return ["", "", ""]
    return [*verdict.points(one), verdict.p_value(one.p_value)]


def transfers(runs: Sequence[EvaluatedRun]) -> Section:
    """Who fools whom: accuracy of each run on images made on another."""
    left: dict[str, dict[tuple[str, str], float]] = {}
    sources: dict[str, None] = {}
    for run in runs:
        for attack in run.files.results.attacks if run.files.results else ():
            if attack.source is not None:
                source = " + ".join(_source(s, runs) for s in sources_of(attack.source))
                sources[source] = None
                threat = attack.threat or "any"
                if attack.eps is not None:
                    threat = verdict.of_threat(attack)
                how = f"{attack.attack} ({threat})"
                share = attack.robust_accuracy
                left.setdefault(how, {})[run.name, source] = share
    head = tag("h2", "Who fools whom")
    if not left:
        return [head, tag("p", NO_TRANSFER)]
    parts = [head]
    for how, found in left.items():
        targets = dict.fromkeys(target for target, _ in found)
        rows = [
            [target, *(verdict.percent(found.get((target, s))) for s in sources)]
            for target in targets
        ]
        heads = ["accuracy of", *(f"on images of {s}" for s in sources)]
        parts.append(tag("h3", f"{how}, made on another network", class_="above"))
        parts.append(table(heads, rows, right=range(1, len(heads))))
    said = "The lower, the more of one network's adversarial images fool the other."
    return [*parts, tag("p", said, class_="soft below")]


def _source(path: str, runs: Sequence[EvaluatedRun]) -> str:
    """Names the run that a source lies in, as the page does; else by its last part."""
    there = os.path.realpath(path)
    for run in runs:
        folder = os.path.realpath(run.path)
        if os.path.commonpath([there, folder]) == folder:
            return run.name
    return names([path])[0]
