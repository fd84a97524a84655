"""What would change the robust accuracy: what to run next, what it costs, and how."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxrobust.attacks import registry
from jaxrobust.attacks.autoattack_versions import plan
from jaxrobust.attacks.registry import Cost
from jaxrobust.report import commands, verdict
from jaxrobust.report.blocks import Block, CommandLine, Text, Title
from jaxrobust.report.commands import Step
from jaxrobust.report.drawing import NORMS
from jaxrobust.report.source import RunFiles
from jaxrobust.results import Results
from jaxrobust.results.schema import AttackSummary

Runs = Sequence[tuple[str, Mapping[str, Any]]]  # attacks and options of them

TITLE = "What would change this number"
# The suite for a defence has at most four of these, and AutoAttack.
ADAPTIVE: Runs = (("apgd", {"steps": 100, "restarts": 5}),) * 4
RESTARTS = 5
A_FORWARD = 1 / 3  # of a gradient, which is one, and twice that on the way back
WIDE = 0.04  # an interval of two points to either side is narrow
_LARGEST = 10**7  # of an option that a file names
_ADAPTIVE = "adaptive"


class Next(NamedTuple):
    """An attack to run: why it may find more, what it costs, and how it is asked.

    `each` is the cost per image; `left` that per image that is still right at most, of
    AutoAttack, which lets the others go.
    """

    name: str
    why: str
    step: Step
    each: Cost = Cost(0, 0)
    left: Cost = Cost(0, 0)


def changes(source: RunFiles, results: Results) -> list[Block]:
    """Returns what to run next, the strongest attack first, and when more examples."""
    found: list[Block] = [Title(TITLE)]
    if verdict.with_radius(results) and not results.worst_case.robust_accuracy:
        told = "No attack can: no image is left. A smaller radius would leave some."
        return [*found, Text(told)]
    if told := _room(results):
        found.append(Text(told))
    starts = ("The strongest attack not yet run", "After that")
    attacks = _attacks(results)
    if (ran := verdict.with_radius(results)) and not any(
        one.norm in registry.NORMS for one in ran
    ):
        attacks = []  # those that are known next are of other threats
    if commands.names_attacks(source.evaluation_command):
        # A suite would take the radius of the config, not that of these attacks.
        attacks = [one for one in attacks if one.step.kind != "suite"]
    for start, one in zip(starts, attacks, strict=False):
        told = f"{start}: {one.name}. {one.why} {_costs(one, results)}"
        found += [Text(told), CommandLine(_command(source, one.step))]
    if more := _more_examples(results):
        told, step = more
        found += [Text(told), CommandLine(_command(source, step))]
    note = "These write results.json and the page anew: copy the folder to keep both."
    return [*found, Text(f"{note} {_TWIN if source.twin else ''}".strip(), soft=True)]


def _command(source: RunFiles, step: Step) -> str:
    return commands.following(source.evaluation_command, step, source.folder)


def _room(results: Results) -> str:
    """Says how far attacks can get at most, where a proof is of the same images."""
    proof = results.certified
    if proof is None or proof.proved is None or proof.unbroken is None:
        return ""
    left = max(0.0, proof.unbroken - proof.proved)
    return (
        f"At {NORMS[proof.norm]}, eps {proof.eps_text} attacks can take at most "
        f"{100 * left:.1f} points more of the {verdict.images(proof.n)} looked at: "
        "the rest is proved."
    )


_TWIN = "The twin is attacked too where the command names a config, at as much again."


def _attacks(results: Results) -> list[Next]:
    """Returns attacks that did not run, the strongest first."""
    ran, threat = verdict.with_radius(results), _threat(results)
    if results.black_box:
        return _without_gradient(ran, threat)
    ensembles = [a for a in verdict.autoattacks(results) if threat.holds(a)]
    versions = {attack.version or "standard" for attack in ensembles}
    if results.randomised:
        wanted = [] if versions else [_ensemble("rand", threat)]
        return [*wanted, _more_starts(threat)]
    found = [] if versions else [_ensemble("standard", threat)]
    if _ADAPTIVE not in (results.suite or "").split("+"):
        # It has AutoAttack in it, and goes around what a sign of masking points at.
        told = any(flag.name != verdict.NOTHING for flag in results.flags)
        found.insert(0 if told else 1, _adaptive(told, threat))
    if "plus" not in versions:
        found.append(_ensemble("plus", threat))
    elif "strong" not in versions:
        found.append(_ensemble("strong", threat))
    return [*found, _more_starts(threat)]


class _Threat(NamedTuple):
    """Norm and radius of the attack that leaves least, the radius as it is written."""

    norm: Any = "linf"
    eps: float = math.inf
    written: str = ""
    classes: int = 10

    def holds(self, attack: AttackSummary) -> bool:
        """Whether an attack was as free as this."""
        return attack.norm == self.norm and (attack.eps or 0) >= self.eps

    def step(self, name: str, module: str = "attacks", **options: Any) -> Step:
        """Writes an attack as `--attack` has it, and as a call from Python."""
        if not registry.traits(name) or "norm" in registry.hyperparameters(name):
            options = {"norm": self.norm, **options}
        given = {"eps": self.written, **options} if self.written else options
        text = ",".join(f"{k}={v}" for k, v in given.items())
        more = "".join(f", {k}={v!r}" for k, v in options.items())
        call = f"(logits_fn, x, y, key=key, eps={self.written or 'eps'}{more})"
        return Step("attack", f"{name}:{text}", f"{module}.{name}{call}")

    def cost(self, runs: Runs) -> Cost:
        """Adds attacks up."""
        costs = [registry.cost(n, classes=self.classes, **o) for n, o in runs]
        return Cost(sum(c.gradients for c in costs), sum(c.calls for c in costs))

    def autoattack(self, version: str) -> Cost:
        """Adds up the stages of AutoAttack."""
        stages = plan(version, self.norm, self.classes, stochastic=True).stages
        costs = [stage.most for stage in stages]
        return Cost(sum(c.gradients for c in costs), sum(c.forwards for c in costs))


def _threat(results: Results) -> _Threat:
    classes = max(len(results.per_class or ()), 2) if results.per_class else 10
    # The attacks to name next have balls with steps in them, which L0 has not.
    attacks = [a for a in verdict.with_radius(results) if a.norm in registry.NORMS]
    if not attacks:
        return _Threat(classes=classes)
    least = min(attacks, key=lambda attack: attack.robust_accuracy)
    plain = set(least.written) <= set("0123456789./e-")
    written = least.written if plain and least.written else f"{least.eps:g}"
    return _Threat(least.norm, least.eps or 0.0, written, classes)


def _ensemble(version: str, threat: _Threat) -> Next:
    more = {} if version == "standard" else {"version": version}
    why = {
        "standard": "It chooses its own steps, aims at each other class, and tries "
        "without gradients.",
        "plus": "It starts five times and brings a third loss.",
        "strong": "It aims at the classes of the nearest boundaries too.",
        "rand": "Each of its steps is a mean over draws of the network.",
    }[version]
    step = threat.step("autoattack", "evaluation", **more)
    return Next(f"AutoAttack, {version}", why, step, left=threat.autoattack(version))


def _adaptive(told: bool, threat: _Threat) -> Next:
    why = (
        "Its losses are chosen by what the defence does, so it sees past gradients "
        "that mislead; AutoAttack is one of its attacks."
    )
    if told:
        why = f"A warning sign rose. {why}"
    python = f'config["eval"]["suite"] = "{_ADAPTIVE}"'
    step = Step("suite", _ADAPTIVE, python)
    each, left = threat.cost(ADAPTIVE), threat.autoattack("standard")
    return Next(f"the suite {_ADAPTIVE}", why, step, each, left)


def _more_starts(threat: _Threat) -> Next:
    """The dearest of the strong attacks whose steps adapt, from more starts."""
    options: dict[str, Any] = {"restarts": RESTARTS}
    found = {
        name: threat.cost([(name, options)])
        for name, of in registry.table().items()
        if of.strong and of.goal == "radius" and not of.fixed_steps
        if threat.norm in of.norms and "restarts" in registry.hyperparameters(name)
    }
    name = max(found, key=lambda name: found[name].gradients)
    why = f"{RESTARTS} random starts for each class it aims at."
    step = threat.step(name, **options)
    return Next(f"{name} with more starts", why, step, found[name])


def _without_gradient(ran: Sequence[AttackSummary], threat: _Threat) -> list[Next]:
    """Those that a black box can be asked by, the cheapest first; no noise."""
    names = {attack.name for attack in ran}
    found = []
    for name, of in registry.table().items():
        if name in names or threat.norm not in of.norms or of.fixed_steps:
            continue
        if not registry.needs_gradient(name):
            asks = "the class" if of.access == "decisions" else "logits"
            why, cost = f"It asks for {asks} alone.", threat.cost([(name, {})])
            one = Next(name, why, threat.step(name), cost)
            found.append((of.goal != "radius", cost.calls, one))
    return [one for *_, one in sorted(found, key=lambda row: row[:2])]


def _more_examples(results: Results) -> tuple[str, Step] | None:
    """Says how many examples would make the interval narrow, where there are more."""
    worst, total = results.worst_case, results.data.of if results.data else 0
    n, width = results.clean.n, worst.ci95[1] - worst.ci95[0]
    if width <= WIDE or total <= n:
        return None
    wanted = min(total, round(n * (width / WIDE) ** 2))
    seconds = sum(attack.seconds or 0 for attack in results.attacks) * wanted / n
    told = (
        f"More examples: the interval is {100 * width:.1f} points wide; {wanted:,} of "
        f"the {total:,} images would make it about "
        f"{100 * max(WIDE, width * math.sqrt(n / wanted)):.1f}"
    )
    told += f", in about {verdict.duration(seconds)}." if seconds else "."
    python = f'config["eval"]["examples"] = {wanted}'
    return told, Step("examples", str(wanted), python)


def _costs(one: Next, results: Results) -> str:
    """Foretells what an attack costs, at the speed of those that ran."""
    n = results.clean.n
    left = round(results.worst_case.robust_accuracy * n)
    parts = (
        (one.each, f"for each of {verdict.images(n)}"),
        (one.left, f"at most for each of the {left:,} that are still right"),
    )
    told = verdict.listed([f"{_counts(cost)} {of}" for cost, of in parts if any(cost)])
    speeds = [speed for a in results.attacks if (speed := _speed(a, results))]
    if not speeds:
        return f"{told}; nothing was timed that says how long."
    speed, label = max(speeds)
    seconds = (n * _units(one.each) + left * _units(one.left)) / speed
    time = f"about {verdict.duration(seconds)} at the speed of {label} here"
    return f"{told}: {time}, and compilation."


def _counts(cost: Cost) -> str:
    kinds = (cost.gradients, "gradients"), (cost.calls, "forward passes")
    return verdict.listed([f"{count:,} {kind}" for count, kind in kinds if count])


def _units(cost: Cost) -> float:
    """Counts gradients, and forward passes as parts of one."""
    return cost.gradients + A_FORWARD * cost.calls


def _speed(attack: AttackSummary, results: Results) -> tuple[float, str] | None:
    """Returns gradients per second, compilation included, and of which attack."""
    if attack.stages:
        units = sum(s.gradients + A_FORWARD * s.forwards for s in attack.stages)
        seconds = sum(stage.seconds for stage in attack.stages)
    else:
        each, seconds = _cost_of(attack, results), attack.seconds or 0
        units = _units(each) * attack.n if each else 0
    if units <= 0 or seconds <= 0:
        return None
    return units / seconds, attack.label


def _cost_of(attack: AttackSummary, results: Results) -> Cost | None:
    """Returns what an attack of ours cost per image, of what a file says of it."""
    if registry.traits(attack.name) is None or attack.source or attack.threat:
        return None
    known = registry.hyperparameters(attack.name)
    told = {"steps": attack.steps, **attack.rest}
    options: dict[str, Any] = {
        name: value
        for name, value in told.items()
        if name in known and isinstance(value, int | float) and 0 <= value <= _LARGEST
    }
    if "norm" in known:
        options["norm"] = attack.norm
    try:
        classes = _threat(results).classes
        return registry.cost(attack.name, classes=classes, **options)
    except (TypeError, ValueError, AttributeError, KeyError):  # anyone's file
        return None
