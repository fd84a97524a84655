"""The sections of the page, each from what was read; None where there is nothing."""

import json
from collections.abc import Sequence
from typing import Any

from jaxrobust.report import classes, drawing, figures, verdict
from jaxrobust.report.figures import Place
from jaxrobust.report.html import Markup, Section, details, tag
from jaxrobust.report.source import RunFiles
from jaxrobust.report.verdict import interval, percent
from jaxrobust.results import Results


def subtitle(source: RunFiles) -> Markup:
    """Says network, data and objective in a line."""
    config = source.config
    parts = [config.get(key, {}).get("name") for key in ("model", "data", "objective")]
    names = ("network", "data", "trained with")
    text = " · ".join(f"{n} {p}" for n, p in zip(names, parts, strict=True) if p)
    return tag("p", text, class_="soft")


def head(source: RunFiles) -> Section:
    """The headline numbers, the verdict and what to believe."""
    results = source.results
    if results is None:
        text = "Not evaluated yet: this page shows training only."
        return tag("p", text, class_="verdict")
    twin = source.twin
    compared = twin and verdict.comparison(results, twin.results, twin.objective)
    notes = [*verdict.cautions(source.config, results), *verdict.belief(results)]
    return [
        tag("div", _numbers(results), class_="headline"),
        tag("p", verdict.verdict(results), class_="verdict"),
        *(tag("p", t) for t in (compared, verdict.stopping(results)) if t),
        *(tag("p", note, class_="note") for note in notes),
    ]


def _numbers(results: Results) -> list[Markup]:
    """Clean accuracy, AutoAttack's where it ran, and the worst case if it is lower."""
    clean, worst = results.clean, results.worst_case
    numbers = [_number("clean accuracy", clean.accuracy, clean.ci95, "clean")]
    ensembles = verdict.autoattacks(results)
    for attack in ensembles:
        who = f"{verdict.called(attack)}, {verdict.of_threat(attack)}"
        about, share = f"robust accuracy, {who}", attack.robust_accuracy
        numbers.append(_number(about, share, attack.ci95, "robust"))
    share = worst.robust_accuracy
    lower = any(share < attack.robust_accuracy for attack in ensembles)
    if verdict.with_radius(results) and (lower or not ensembles):
        name = "worst case of all attacks" if ensembles else "robust accuracy"
        about = f"{name}, {verdict.threats(results)}"
        numbers.append(_number(about, share, worst.ci95, "robust"))
    return numbers


def _number(name: str, share: float, ends: Sequence[float], css: str) -> Markup:
    ci95 = tag("span", f"95 % interval {interval(ends)}", class_="soft")
    return tag("div", name, tag("b", percent(share)), ci95, class_=f"number {css}")


def flags(source: RunFiles) -> Section:
    """Signs that the numbers are not what they seem."""
    if source.results is None:
        return None
    head, rows = tag("h2", "Warning signs"), []
    for flag in sorted(source.results.flags, key=lambda f: not f.severe):
        name = tag("b", flag.name.replace("_", " "))
        css = "flag severe" if flag.severe else "flag"
        rows.append(tag("p", name, ": ", flag.message, class_=css))
    numbers = source.results.diagnostics
    if numbers and not rows:
        where = f"on {numbers.n:,} images"
        text = f"None of the checks {where} found a sign of masked gradients."
        rows = [tag("p", text)]
    left_out = [tag("p", text) for text in verdict.unchecked(source.results)]
    return [head, *rows, *left_out, *figures.at(Place.WARNINGS, source)]


LOSS = (
    ("training", "third", "loss"),
    ("held out, clean", "clean", "validation/loss"),
    ("held out, attacked", "robust", "validation/robust_loss"),
)
ACCURACY = (
    ("held out, clean", "clean", "validation/accuracy"),
    ("held out, attacked", "robust", "validation/robust_accuracy"),
    ("batch, clean", "clean--", "accuracy"),
    ("batch, attacked", "robust--", "robust_accuracy"),
)
RATE = (("learning rate", "third", "learning_rate"),)


def training(source: RunFiles) -> Section:
    """Loss, learning rate and accuracies over the epochs."""
    loss = _drawn(source, LOSS, "Loss", ylabel="loss (nats)", size=(5, 2.6))
    rate = _drawn(source, RATE, "Learning rate", ylabel="", size=(5, 1.5))
    accuracy = _drawn(
        source, ACCURACY, "Accuracy", ylabel="accuracy (%)", percent=True, size=(5, 4.1)
    )
    cards = [tag("figure", c, class_="card") for c in ([*loss, *rate], accuracy) if c]
    return _side_by_side("Training", cards)


def _drawn(source: RunFiles, wanted: Any, title: str, **options: Any) -> list[Markup]:
    series = []
    for label, color, key in wanted:
        rows = [r for r in source.metrics if r.get(key) is not None]
        x = [r.get("epoch", r.get("step", i)) for i, r in enumerate(rows)]
        if rows:
            series.append((label, color, x, [r[key] for r in rows]))
    if not series:
        return []
    about = f"{title} over training"
    svg = drawing.lines(series, xlabel="epoch", description=about, **options)
    return [tag("h3", title), Markup(svg)]


def curves(source: RunFiles) -> Section:
    """Accuracy over the radius, growth of perturbations, and accuracy per class."""
    rows = source.results.per_class if source.results else None
    cards = [*figures.at(Place.CURVES, source), *classes.figure(rows or ())]
    return _side_by_side("Curves", cards)


def corruptions(source: RunFiles) -> Section:
    """Accuracy under common corruptions."""
    found = figures.at(Place.CORRUPTIONS, source)
    return [tag("h2", "Corruptions"), *found] if found else None


def analyses(source: RunFiles, own: figures.OwnFigures) -> Section:
    """All other analyses, as far as they were measured."""
    return _side_by_side("Analyses", figures.analyses(source, own))


def _side_by_side(title: str, cards: list[Markup]) -> Section:
    return [tag("h2", title), tag("div", cards, class_="pair")] if cards else None


def reproduce(source: RunFiles) -> Section:
    """The command, the config and the environment."""
    parts: list[Markup] = [tag("h2", "Reproduce")]
    if source.command:
        parts.append(tag("pre", source.command, class_="card"))
    if source.config:
        text = json.dumps(source.config, indent=2)
        parts.append(details("Config", tag("pre", text)))
    if environment := source.results and source.results.environment:
        rows = [
            (tag("dt", key.replace("_", " ")), tag("dd", str(value)))
            for key, value in environment.items()
            if value is not None
        ]
        parts.append(details("Environment", tag("dl", rows)))
    return parts if len(parts) > 1 else None
