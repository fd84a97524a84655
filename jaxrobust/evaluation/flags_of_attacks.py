"""Signs that the attacks of an evaluation give of themselves, each with its numbers."""

from collections.abc import Sequence

import numpy as np

from jaxrobust.attacks import registry
from jaxrobust.evaluation import statistics
from jaxrobust.evaluation.flags import MARGIN, Flag, above_chance, minor, severe
from jaxrobust.results.schema import Attack, Clean, Curve

# Signs of PGD on the cross-entropy, which say nothing of attacks on another loss: in
# the diagnostics, and in the curve.
OF_CROSS_ENTROPY = ("scale_hides_gradients",)
OF_CURVE = ("above_chance_at_largest_eps",)


def is_strong(name: str) -> bool:
    """Whether an attack is iterative, and beats weak ones on sound gradients."""
    traits = registry.traits(name)
    return name == "autoattack" or (traits is not None and traits.strong)


def _climbs(name: str) -> bool:
    """Whether an attack has to lower the accuracy of a network with sound gradients."""
    traits = registry.traits(name)
    one_step = traits is not None and traits.weak and traits.access == "gradient"
    return is_strong(name) or bool(one_step)


def _follows_cross_entropy(attack: Attack) -> bool:
    """Whether the loss of a strong attack is the cross-entropy."""
    if attack.name == "autoattack":
        return False
    takes_loss = "loss" in registry.parameters(attack.name)
    return takes_loss and attack.rest.get("attack_loss", "ce") in ("ce", "")


def sees_past_rounding(attacks: Sequence[Attack]) -> bool:
    """Whether an iterative attack with a radius follows no cross-entropy.

    Large logits round the cross-entropy away, but neither the margin nor the DLR loss.
    """
    return any(
        attack.eps is not None
        and is_strong(attack.name)
        and not _follows_cross_entropy(attack)
        for attack in attacks
    )


def of_what_ran(
    found: Sequence[Flag], names: Sequence[str], attacks: Sequence[Attack]
) -> list[Flag]:
    """Returns flags, those of these names minor where an attack does without them.

    Args:
      found: flags.
      names: of those that are about the cross-entropy alone.
      attacks: that ran, as in results.json.
    """
    if not sees_past_rounding(attacks):
        return list(found)
    return [
        flag | {"severe": False} if flag["name"] in names else flag for flag in found
    ]


def raised(attacks: Sequence[Attack], clean: Clean) -> list[Flag]:
    """Flags attacks that leave more than no attack at all.

    Args:
      attacks: of results.json.
      clean: likewise, `accuracy` and `n`.
    """
    flags, least = [], max(MARGIN, 1.5 / clean.n)
    for attack in attacks:
        gain = attack.robust_accuracy - clean.accuracy
        if _climbs(attack.name) and gain > least:
            message = (
                f"{attack.label} raises the accuracy by {gain:.1%} over that of the "
                "clean images: the gradient points the wrong way."
            )
            flags.append(severe("attack_raises_accuracy", message, raised=gain))
    return flags[:1]


def from_attacks(attacks: Sequence[Attack]) -> list[Flag]:
    """Flags weak attacks that beat iterative ones under the same threat."""
    flags = []
    for weak in attacks:
        traits = registry.traits(weak.name)
        if traits is None or not traits.weak:
            continue
        strong = [
            other.robust_accuracy
            for other in attacks
            if is_strong(other.name)
            and (other.norm, other.eps) == (weak.norm, weak.eps)
        ]
        # Of a few images, one may be luck.
        least = max(MARGIN, 1.5 / weak.n)
        if strong and weak.robust_accuracy < min(strong) - least:
            message = (
                f"{weak.label} ({traits.weak}) leaves "
                f"{weak.robust_accuracy:.1%}, the iterative attacks "
                f"{min(strong):.1%}: they miss what is there (masked gradients?)."
            )
            name = (
                "single_step_beats_iterative"
                if traits.access == "gradient"
                else "black_box_beats_white_box"
            )
            values = {"weak": weak.robust_accuracy, "iterative": min(strong)}
            flags.append(severe(name, message, **values))
    return flags


def from_curve(curve: Curve, chance: float, size: int) -> list[Flag]:
    """Flags a curve that rises, or stays above chance where no network can be.

    Args:
      curve: of `curve.describe`.
      chance: the share of the commonest label.
      size: numbers per image. A radius that reaches mid-grey from every image (.5 in
        each number) makes all images attackable into one.
    """
    flags, accuracy = [], curve.robust_accuracy
    order = np.argsort(curve.eps)
    rises = np.diff(np.asarray(accuracy)[order])
    if len(rises) and rises.max() > MARGIN:
        message = f"Robust accuracy rises by {rises.max():.1%} with a larger radius."
        flags.append(minor("curve_rises", message, rise=float(rises.max())))
    grey = {"linf": 0.5, "l2": 0.5 * size**0.5, "l1": 0.5 * size}[curve.norm]
    last = int(order[-1])
    hits = round(accuracy[last] * curve.n)
    low = statistics.wilson_interval(hits, curve.n)[0]
    if curve.eps[last] >= grey and low > chance:
        written = curve.eps_text[last]
        flags.append(above_chance(written, accuracy[last], chance))
    return flags
