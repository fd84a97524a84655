"""The report in short: what stands on top of the page, and is printed at the end."""

from jaxrobust.report import attacks, changes, verdict
from jaxrobust.report.blocks import Block, Table, Text, Title, Warn
from jaxrobust.report.source import RunFiles
from jaxrobust.results import Results


def summary(source: RunFiles) -> list[Block]:
    """Returns the headline, what to believe of it, the signs and the attacks."""
    title = Title(title_of(source), 1)
    told = verdict.subtitle(source.config)
    head = [title, Text(told, soft=True)] if told else [title]
    results = source.results
    if results is None:
        return [*head, Text(NOTHING)]
    numbers = [one[:3] for one in verdict.headline(results)]
    return [
        *head,
        Table(("", "share", "95 % interval"), numbers, (1, 2)),
        Text(verdict.verdict(results)),
        *said(source, results),
        *signs(results),
        Title("Attacks"),
        attacks.attack_table(source, results),
        Text(attacks.note(results), soft=True),
        *changes.changes(source, results),
    ]


NOTHING = "Not evaluated yet: there is training only."


def title_of(source: RunFiles) -> str:
    """Names the run."""
    return str(source.config.get("name") or "jaxrobust run")


def said(source: RunFiles, results: Results) -> list[Block]:
    """Returns how the run compares with its twin, and what to believe."""
    twin = source.twin
    compared = twin and verdict.comparison(results, twin.results, twin.objective)
    notes = [one for one in (source.trained_since,) if one]
    notes += [*verdict.cautions(source.config, results), *verdict.belief(results)]
    proof = results.certified
    told = (proof and verdict.proved(proof), compared, verdict.stopping(results))
    return [*(Text(text) for text in told if text), *map(Warn, notes)]


def signs(results: Results) -> list[Block]:
    """Returns the signs that the numbers are not what they seem, severe ones first."""
    rows: list[Block] = [
        Warn(flag.message, flag.name.replace("_", " "), flag.severe)
        for flag in sorted(results.flags, key=lambda flag: not flag.severe)
    ]
    if results.diagnostics and not rows:
        where = f"on {results.diagnostics.n:,} images"
        rows = [Text(f"None of the checks {where} found a sign of masked gradients.")]
    return [Title("Warning signs"), *rows, *map(Text, verdict.unchecked(results))]
