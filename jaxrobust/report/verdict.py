"""The report in words: what was found and what to believe of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxrobust.attacks import registry
from jaxrobust.report.drawing import NORMS
from jaxrobust.results import Results
from jaxrobust.results.analysis_schema import Certified
from jaxrobust.results.schema import Asked, AttackSummary, Paired

FEW = 4  # attacks that a sentence can name
NOTHING = "learned_nothing"  # a flag of the network, not of the attacks
PAIRED = "Intervals are Tango's for paired shares, p is McNemar's exact."


def percent(share: float | None) -> str:
    """Writes a share, `93.4 %`."""
    return "" if share is None else f"{100 * share:.1f} %"


def interval(ends: Sequence[float]) -> str:
    """Writes a 95 % interval of a share, `[91.0, 95.2]`."""
    return f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def images(count: int) -> str:
    """Writes a number of images."""
    return f"{count:,} image{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """Writes a time in the unit that suits it: `40 seconds`, `3 minutes`."""
    for most, unit, name in (
        (90, 1, "seconds"),
        (90 * 60, 60, "minutes"),
        (48 * 3600, 3600, "hours"),
    ):
        if seconds < most:
            return f"{max(seconds / unit, 1):.0f} {name}"
    return f"{seconds / 86400:.3g} days"


def listed(names: Sequence[str]) -> str:
    """Joins names: `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def with_radius(results: Results) -> list[AttackSummary]:
    """Returns the attacks that the worst case is over."""
    return [attack for attack in results.attacks if attack.eps is not None]


def autoattacks(results: Results) -> list[AttackSummary]:
    """Returns the runs of AutoAttack among the attacks."""
    return [a for a in with_radius(results) if a.name == registry.AUTOATTACK]


def called(attack: AttackSummary) -> str:
    """Returns what to call an attack: its label, for AutoAttack its own name too."""
    label = attack.label
    if attack.name != registry.AUTOATTACK:
        return label
    return "AutoAttack" if label == attack.name else f"AutoAttack ({label})"


def of_threat(attack: Asked) -> str:
    """Names the threat of an attack with a radius, `L∞, eps 8/255`."""
    return f"{NORMS[attack.norm]}, eps {attack.written}"


def threats(results: Results) -> str:
    """Names the threats of the worst case, `L∞, eps 4/255 and 8/255; L2, eps 1`."""
    radii: dict[str, dict[str, None]] = {}
    for attack in with_radius(results):
        radii.setdefault(attack.norm, {})[attack.written] = None
    return "; ".join(f"{NORMS[n]}, eps {listed(list(r))}" for n, r in radii.items())


def verdict(results: Results) -> str:
    """Says what was measured, in one sentence."""
    clean, worst = results.clean, results.worst_case
    text = f"{percent(clean.accuracy)} of {clean.n:,} test images are classified "
    if not (attacks := with_radius(results)):
        which = " with a radius" if results.attacks else ""
        return f"{text}correctly; no attack{which} was run."
    who = named(attacks, results)
    stay = "seem to stay" if severe(results) else "stay"
    return (
        f"{text}correctly, and {percent(worst.robust_accuracy)} "
        f"{interval(worst.ci95)} {stay} so whatever {who} "
        f"{'does' if len(attacks) == 1 else 'do'} to them ({threats(results)})."
    )


def named(attacks: Sequence[AttackSummary], results: Results) -> str:
    """Names the attacks, or says how many of which suite where they are many."""
    if len(attacks) > FEW:
        suite = results.suite
        return f"the {len(attacks)} attacks{f' of the suite {suite}' if suite else ''}"
    return listed([called(attack) for attack in attacks])


class Headline(NamedTuple):
    """A number that stands first: what it is, the share, its interval, and its kind."""

    name: str
    share: str
    interval: str
    kind: str  # clean or robust


def headline(results: Results) -> list[Headline]:
    """Clean accuracy, AutoAttack's, the worst case if it is lower, what is proved."""
    clean, worst = results.clean, results.worst_case
    found = [("clean accuracy", clean.accuracy, clean.ci95, "clean")]
    ensembles = autoattacks(results)
    for attack in ensembles:
        about = f"robust accuracy, {called(attack)}, {of_threat(attack)}"
        found.append((about, attack.robust_accuracy, attack.ci95, "robust"))
    share = worst.robust_accuracy
    lower = any(share < attack.robust_accuracy for attack in ensembles)
    if with_radius(results) and (lower or not ensembles):
        name = "worst case of all attacks" if ensembles else "robust accuracy"
        found.append((f"{name}, {threats(results)}", share, worst.ci95, "robust"))
    proof = results.certified
    if proof and proof.proved is not None and proof.ci95 is not None:
        name = f"proved, {proof.method}, {NORMS[proof.norm]}, eps {proof.eps_text}"
        found.append((name, proof.proved, proof.ci95, "robust"))
    for other in results.other_threats or ():
        found.append((other.label, other.robust_accuracy, other.ci95, "robust"))
    return [Headline(n, percent(s), interval(ends), k) for n, s, ends, k in found]


def subtitle(config: Mapping[str, Any]) -> str:
    """Says network, data and objective in a line."""
    parts = [config.get(key, {}).get("name") for key in ("model", "data", "objective")]
    names = ("network", "data", "trained with")
    return " · ".join(f"{n} {p}" for n, p in zip(names, parts, strict=True) if p)


def severe(results: Results) -> list[str]:
    """Names the flags after which a robust accuracy means nothing."""
    found = [flag.name for flag in results.flags if flag.severe]
    return [name.replace("_", " ") for name in found]


def unchecked(results: Results) -> list[str]:
    """Says which signs of masked gradients nobody looked for."""
    numbers, notes = results.diagnostics, []
    if not numbers and results.black_box:
        notes.append(
            "Not checked: signs of masked gradients, of which a black box has none to "
            "look at. Attacks that see outputs alone find less than those that follow "
            "gradients: the robust accuracy is an upper bound."
        )
    elif not numbers and results.randomised:
        notes.append(
            "Not checked: signs of masked gradients. The checks compare calls that "
            "should agree, and this network draws anew in each."
        )
    elif not numbers:
        notes.append(
            "Not checked: whether the gradient is the network's, whether outputs "
            "change, whether weaker attacks find what stronger ones miss "
            "(config.eval.diagnostics is off). Nothing here speaks for the robust "
            "accuracy or against it but the attacks themselves."
        )
    elif numbers.gradients.explained is None:
        notes.append(
            "Could not be checked: whether the gradient is the network's. What a "
            "small step changes is lost in the rounding of the logits."
        )
    if numbers and not numbers.queries:
        notes.append(
            "Not checked: whether a black box finds more than gradients do "
            "(config.eval.diagnostics.queries is 0)."
        )
    if not results.curve:
        notes.append("Not checked: larger radii (there is no curve over them).")
    return notes


def belief(results: Results) -> list[str]:
    """Says how far the robust accuracy can be trusted."""
    behind = f"Attacks are on the network behind its defence, {results.preprocessing}."
    notes = [behind] if results.preprocessing else []
    if found := results.randomised:
        notes.append(
            "This network is randomised: an image counts as right where at least half "
            f"of {found.draws:g} fresh draws are, and attacks average over draws."
        )
    names = {attack.name for attack in results.attacks}
    told = [flag for flag in results.flags if flag.name != NOTHING]
    if len(told) < len(results.flags):
        notes.append(
            "The network has learned nothing: its clean accuracy cannot be told from "
            "chance. What resists attacks is no robustness."
        )
    if worst := severe(results):
        notes.append(
            f"The robust accuracy must not be believed: {listed(worst)}. See the "
            f"warning signs below.{_in_spite_of_signs(results)}"
        )
    elif told:
        count = len(told)
        notes.append(
            f"{count} warning sign{'s' * (count > 1)} below: the robust accuracy is "
            "probably too high."
        )
    # Of nothing that is left, nothing can be taken.
    left = results.worst_case.robust_accuracy > 0
    if names and left and not autoattacks(results):
        fixed = ((t := registry.traits(name)) and t.fixed_steps for name in names)
        only = "Only " if all(fixed) else ""
        who = named(results.attacks, results)
        notes.append(
            f"{only}{who} ran, not AutoAttack: take the robust accuracy as an upper "
            "bound. Stronger attacks usually find more; the suite autoattack has them."
        )
    if not names:
        notes.append("Without attacks nothing is known about robustness.")
    n = results.clean.n
    if n < 1000:
        notes.append(f"{n:,} images make wide intervals; see the brackets.")
    return notes


def proved(found: Certified) -> str:
    """Says between what a proof and the attacks of its ball leave the robust share."""
    if found.proved is None:
        return f"Nothing could be proved: {found.unsupported}"
    by, top = f"proved by {found.method}", found.unbroken
    if top is None:
        told = f"At least {percent(found.proved)} are robust ({by})"
    else:
        told = (
            f"Between {percent(found.proved)} ({by}) and {percent(top)} (under the "
            "attacks in this ball) are robust"
        )
    told += f", of {images(found.n)}. A proof holds up to float32 rounding."
    if found.contradicted:
        told += (
            f" {images(found.contradicted)} proved and yet broken: one of the two is "
            "wrong, do not trust this number."
        )
    return told


def _in_spite_of_signs(results: Results) -> str:
    proof = results.certified
    if proof is None or not proof.proved or proof.contradicted:
        return ""
    ball = f"{NORMS[proof.norm]}, eps {proof.eps_text}"
    return f" What is proved stands all the same: {percent(proof.proved)} at {ball}."


def cautions(config: Mapping[str, Any], results: Results) -> list[str]:
    """Says what has to stand beside the numbers of this method, and what is missing."""
    notes = []
    method = config.get("objective", {}).get("name", "")
    model = config.get("model", {}).get("name", "")
    is_pcl = method.startswith("pcl") or (not method and model == "pcl_resnet")
    if is_pcl and results.attacks and not autoattacks(results):
        notes.append(
            "PCL: this number misleads without one of AutoAttack beside it (the suite "
            "autoattack). The paper reports 32 % on CIFAR-10; AutoAttack leaves .28 % "
            "(arXiv 2003.01690)."
        )
    if pending := results.pending:
        labels = listed([attack.label for attack in pending])
        reasons = "; ".join(dict.fromkeys(attack.reason for attack in pending))
        suite = results.suite or "the suite"
        notes.append(
            f"{len(pending)} attack{'s' * (len(pending) > 1)} of {suite} did not run: "
            f"{labels} ({reasons})."
        )
    return notes


def comparison(results: Results, twin: Results | None, objective: str) -> str | None:
    """Compares with the twin's results, if they are about the same threats."""
    if not twin or not with_radius(results) or threats(twin) != threats(results):
        return None
    gap = 100 * (results.worst_case.robust_accuracy - twin.worst_case.robust_accuracy)
    points = f"{abs(gap):.0f} points {'less' if gap >= 0 else 'more'}"
    return (
        f"The same network trained with the objective {objective} reaches "
        f"{percent(twin.clean.accuracy)} clean and "
        f"{percent(twin.worst_case.robust_accuracy)} under the same attacks: "
        f"{points if abs(gap) >= 0.5 else 'as much'}."
    )


def paired(results: Results) -> str | None:
    """Says what the comparison with the twin, image by image, found."""
    found = results.comparison
    if not found:
        return None
    parts = []
    # Worst cases over different attacks are not the same quantity.
    worst = found.worst_case if found.same_attacks else None
    for one, name in ((found.clean, "clean"), (worst, "under attack")):
        if one is not None:
            difference, ends = points(one)
            parts.append(
                f"{name} {difference} points {ends} "
                f"({one.only_a:,} images that only this network gets right, "
                f"{one.only_b:,} only the twin; p {p_value(one.p_value, '= ')})"
            )
    return (
        f"Against the twin on the same {found.n:,} images: {'; '.join(parts)}. {PAIRED}"
    )


def points(one: Paired) -> tuple[str, str]:
    """Writes the difference of two paired shares in points, and its interval."""
    low, high = (f"{100 * end:+.1f}" for end in one.ci95)
    return f"{100 * one.difference:+.1f}", f"[{low}, {high}]"


def p_value(value: float, equals: str = "") -> str:
    """Writes a p-value, `< .001` or with `equals` before it."""
    return "< .001" if value < 1e-3 else f"{equals}{value:.2g}"


def stopping(results: Results) -> str | None:
    """Says how many examples were used where intervals decided, and why."""
    found = results.stopping
    if not found:
        return None
    return (
        f"Evaluated {found.used:,} of {found.of:,} images, in blocks of "
        f"{found.block:,}: {found.reason}."
    )
