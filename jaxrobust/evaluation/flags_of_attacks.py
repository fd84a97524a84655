"""Signs that the attacks of an evaluation give of themselves, each with its numbers."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxrobust import threat
from jaxrobust.attacks import registry
from jaxrobust.evaluation import statistics
from jaxrobust.evaluation.flags import (
    MARGIN,
    RaisedFlag,
    above_chance,
    filled,
    least_difference,
)
from jaxrobust.results.analysis_schema import Curve
from jaxrobust.results.schema import AttackSummary, Clean

# Signs of PGD on the cross-entropy, which say nothing of attacks on another loss: in
# the diagnostics, and in the curve.
OF_CROSS_ENTROPY = ("scale_hides_gradients",)
OF_CURVE = ("above_chance_at_largest_eps",)

_MISSED = (
    "{label} ({kind}) leaves {weak:.1%}, the iterative attacks {iterative:.1%}: they "
    "miss what is there (masked gradients?)."
)
_SENTENCES = {
    "attack_raises_accuracy": "{label} raises the accuracy by {raised:.1%} over that "
    "of the clean images: the gradient points the wrong way.",
    "single_step_beats_iterative": _MISSED,
    "black_box_beats_white_box": _MISSED,
    "curve_rises": "Robust accuracy rises by {rise:.1%} with a larger radius.",
}
_flag = functools.partial(filled, _SENTENCES)


def _climbs(name: str) -> bool:
    """Whether an attack has to lower the accuracy of a network with sound gradients."""
    traits = registry.traits(name)
    return registry.is_strong(name) or (traits is not None and traits.single_step)


def _follows_cross_entropy(attack: AttackSummary) -> bool:
    """Whether the loss of a strong attack is the cross-entropy."""
    if attack.name == registry.AUTOATTACK:
        return False
    takes_loss = "loss" in registry.parameters(attack.name)
    return takes_loss and attack.attack_loss in (None, "ce", "")


def of_what_ran(
    found: Iterable[RaisedFlag], names: Sequence[str], attacks: Sequence[AttackSummary]
) -> list[RaisedFlag]:
    """Returns flags, those of `names` minor where an attack does without them.

    They are about the cross-entropy alone, which large logits round away; they do that
    to neither the margin nor the DLR loss.
    """
    known = ()
    for one in attacks:
        strong = one.eps is not None and registry.is_strong(one.name)
        if strong and not _follows_cross_entropy(one):
            known = names
    return [
        RaisedFlag(**{**flag, "severe": False}) if flag["name"] in known else flag
        for flag in found
    ]


def raised(attacks: Sequence[AttackSummary], clean: Clean) -> list[RaisedFlag]:
    """Flags the first attack that leaves more than no attack at all."""
    least = least_difference(clean.n)
    for attack in attacks:
        gain = attack.robust_accuracy - clean.accuracy
        if _climbs(attack.name) and gain > least:
            told = {"label": attack.label}
            return [_flag("attack_raises_accuracy", told, raised=gain)]
    return []


def from_attacks(attacks: Sequence[AttackSummary]) -> Iterator[RaisedFlag]:
    """Flags weak attacks that beat iterative ones under the same threat."""
    for weak in attacks:
        traits = registry.traits(weak.name)
        if traits is None or not traits.weak:
            continue
        strong = [
            other.robust_accuracy
            for other in attacks
            if registry.is_strong(other.name)
            and (other.norm, other.eps) == (weak.norm, weak.eps)
        ]
        # Of a few images, one may be luck.
        least = least_difference(weak.n)
        if strong and weak.robust_accuracy < min(strong) - least:
            name = "black_box_beats_white_box"
            if traits.single_step:
                name = "single_step_beats_iterative"
            told, left = {"label": weak.label, "kind": traits.weak}, min(strong)
            yield _flag(name, told, weak=weak.robust_accuracy, iterative=left)


def from_curve(curve: Curve, chance: float, size: int) -> Iterator[RaisedFlag]:
    """Flags a curve that rises, or stays above chance where no network can be.

    A radius that reaches mid-grey from every image (.5 in each of its `size` numbers)
    makes all images attackable into one.
    """
    accuracy = curve.robust_accuracy
    order = np.argsort(curve.eps)
    rises = np.diff(np.asarray(accuracy)[order])
    if len(rises) and rises.max() > MARGIN:
        yield _flag("curve_rises", minor=True, rise=float(rises.max()))
    grey = threat.covering_radius(curve.norm, size, (0, 0.5))
    last = int(order[-1])
    hits = round(accuracy[last] * curve.n)
    low = statistics.wilson_interval(hits, curve.n)[0]
    if curve.eps[last] >= grey and low > chance:
        yield above_chance(curve.eps_text[last], accuracy[last], chance)
