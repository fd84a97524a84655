"""One row per group of runs: accuracies, warning signs, minutes; and their configs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxrobust.attacks import registry
from jaxrobust.report import verdict
from jaxrobust.report.html import Content, Section, details, table, tag
from jaxrobust.report.many.groups import RunGroup, Spread, differing, over
from jaxrobust.report.source import RunFiles
from jaxrobust.results.schema import AttackSummary

NOTE = (
    "Where runs differ by their seed alone, a row is their mean ± standard deviation "
    "(n - 1) over n of them, and the interval is Student's, 95 %, of the mean worst "
    "case over seeds. An image counts as robust in the worst case if it is classified "
    "correctly as it is and under every attack with a radius."
)


class Column(NamedTuple):
    """An attack: the same label means the same only with the same threat."""

    label: str
    name: str
    norm: str
    radius: str

    @property
    def threat(self) -> str:
        """The threat in words."""
        ball = self.radius == "any size" or self.radius.startswith("eps ")
        return f"{verdict.NORMS[self.norm]}, {self.radius}" if ball else self.radius


def results(groups: Sequence[RunGroup]) -> Section:
    """The table of what was measured."""
    columns = _columns(groups)
    threats = dict.fromkeys(c.threat for c in columns)
    seen = Counter(c.label for c in columns)
    heads = ["run", "n", "clean", "worst case"]
    several = any(len(group.runs) > 1 for group in groups)
    heads += ["95 % interval"] * several
    for column in columns:
        # Where there is one threat alone, the note says it.
        some = len(threats) > 1 or seen[column.label] > 1
        heads.append(_name(column) if some else column.label)
    heads += ["warning signs", "training, min", "evaluation, min"]
    rows = [_row(group, columns, several) for group in groups]
    texts = (0, len(heads) - 3)  # names, and warning signs
    numbers = [place for place in range(len(heads)) if place not in texts]
    note = f"Threat: {next(iter(threats))}. {NOTE}" if len(threats) == 1 else NOTE
    return [
        tag("h2", "Results"),
        table(heads, rows, right=numbers),
        tag("p", note, class_="soft below"),
    ]


def configs(groups: Sequence[RunGroup]) -> Section:
    """In which fields the configs differ."""
    fields = differing(groups)
    if not fields:
        return None
    rows = [[name, *values] for name, values in fields.items()]
    inside = table(["config", *(group.name for group in groups)], rows)
    return details("In what they differ", inside)


def _columns(groups: Sequence[RunGroup]) -> list[Column]:
    """Lists the attacks of all runs, AutoAttack first; transfers have a place apart."""
    found = {
        _column(attack): None
        for group in groups
        for run in group.runs
        if run.files.results
        for attack in run.files.results.attacks
        if attack.source is None
    }
    return sorted(found, key=lambda column: column.name != registry.AUTOATTACK)


def _column(attack: AttackSummary) -> Column:
    radius = "any size" if attack.eps is None else f"eps {attack.written}"
    radius = attack.threat or radius
    return Column(verdict.called(attack), attack.name, attack.norm, radius)


def shares(files: RunFiles) -> dict[str | Column, float | None]:
    """Returns accuracies of one run: `clean`, `worst case`, and each attack's."""
    if files.results is None:
        return {}
    found: dict[str | Column, float | None] = {"clean": files.results.clean.accuracy}
    if verdict.with_radius(files.results):
        found["worst case"] = files.results.worst_case.robust_accuracy
    attacks = files.results.attacks
    return found | {_column(a): a.robust_accuracy for a in attacks}


def by_name(group: RunGroup) -> dict[str, Spread]:
    """Returns the numbers of a row: `clean`, `worst case`, and each attack's."""
    found = over(group, shares)
    return {_name(key): value for key, value in found.items()}


def _name(key: str | Column) -> str:
    return key if isinstance(key, str) else f"{key.label} ({key.threat})"


def _row(group: RunGroup, columns: Sequence[Column], several: bool) -> list[Content]:
    measured = over(group, shares)
    keys: list[str | Column] = ["clean", "worst case", *columns]
    cells = [_percent(measured.get(key), len(group.runs)) for key in keys]
    if several:
        ends = worst.ci95 if (worst := measured.get("worst case")) else None
        cells.insert(2, verdict.interval(ends) if ends else "")
    minutes = over(group, _minutes)
    spent = [
        f"{found.mean:.1f}" if (found := minutes.get(part)) else ""
        for part in ("training", "evaluation")
    ]
    return [group.name, f"{len(group.runs)}", *cells, _flags(group), *spent]


def _percent(found: Spread | None, runs: int) -> str:
    """Writes a share with its deviation; with n where not all runs have it."""
    if found is None:
        return ""
    text = verdict.percent(found.mean)
    if found.deviation is not None:
        text = f"{100 * found.mean:.1f} ± {100 * found.deviation:.1f} %"
    return text if found.n == runs else f"{text} (n = {found.n})"


def _flags(group: RunGroup) -> list[Content]:
    """Names the warning signs of a group; severe ones stand out."""
    evaluated = [run.files.results for run in group.runs if run.files.results]
    if not evaluated:
        return ["not evaluated"]
    flags = [flag for results in evaluated for flag in results.flags]
    counts = Counter(flag.name for flag in flags)
    severe = {flag.name for flag in flags if flag.severe}
    parts: list[Content] = []
    for name, count in sorted(counts.items(), key=lambda one: one[0] not in severe):
        of = f" ({count} of {len(evaluated)})" if len(evaluated) > 1 else ""
        text = f"{name.replace('_', ' ')}{of}"
        parts += [", "] * bool(parts)
        parts.append(tag("b", text) if name in severe else text)
    return parts or ["none"]


def _minutes(files: RunFiles) -> Mapping[str, float | None]:
    """Returns minutes of training, without validation, and of what was evaluated."""
    size = files.config.get("train", {}).get("batch_size")
    seconds, before = 0.0, 0
    for row in files.metrics:
        if rate := row.get("images_per_second"):
            seconds += (row["step"] - before) * (size or 0) / rate
            before = row["step"]
    found = files.results
    timed = [found.clean, *found.attacks] if found else []
    timed += [found.curve, found.diagnostics, found.corruptions] if found else []
    timed += [found.corruption_set] if found else []
    parts = [part.seconds for part in timed if part and part.seconds is not None]
    return {
        "training": seconds / 60 if seconds else None,
        "evaluation": sum(parts) / 60 if parts else None,
    }
