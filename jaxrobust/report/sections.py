"""The sections of the page, each from what was read; None where there is nothing."""

import json
from typing import Any

from jaxrobust.report import brief, changes, classes, drawing, figures, forms, verdict
from jaxrobust.report.figures import Place
from jaxrobust.report.html import Markup, Section, details, explained, tag
from jaxrobust.report.source import RunFiles


def subtitle(source: RunFiles) -> Markup:
    """Says network, data and objective in a line."""
    return tag("p", verdict.subtitle(source.config), class_="soft")


def head(source: RunFiles) -> Section:
    """The headline numbers, the verdict and what to believe."""
    results = source.results
    if results is None:
        text = brief.NOTHING
        return tag("p", text, class_="verdict")
    numbers = map(_number, verdict.headline(results))
    return [
        tag("div", list(numbers), class_="headline"),
        tag("p", explained(verdict.verdict(results)), class_="verdict"),
        *forms.as_html(brief.said(source, results)),
    ]


def _number(one: verdict.Headline) -> Markup:
    ci95 = tag("span", f"95 % interval {one.interval}", class_="soft")
    share = tag("b", one.share)
    return tag("div", one.name, share, ci95, class_=f"number {one.kind}")


def flags(source: RunFiles) -> Section:
    """Signs that the numbers are not what they seem."""
    if source.results is None:
        return None
    found = forms.as_html(brief.signs(source.results))
    return [*found, *figures.at(Place.WARNINGS, source)]


def next_attacks(source: RunFiles) -> Section:
    """What would change the robust accuracy."""
    if source.results is None:
        return None
    return forms.as_html(changes.changes(source, source.results))


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
    for command in dict.fromkeys((source.command, source.evaluation_command)):
        if command:
            parts.append(tag("pre", command, class_="card"))
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
