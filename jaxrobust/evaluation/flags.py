"""Signs that a robust accuracy is not what it seems, each with its numbers.

Athalye et al. 2018 (arXiv 1802.00420, section 3.1) and Carlini et al. 2019 (arXiv
1902.06705, section 3) list the symptoms of masked gradients.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust.evaluation import statistics

Flag = dict[str, Any]
ITERATIVE = ("pgd", "bim", "mim", "apgd", "apgd_targeted", "fab", "autoattack")
WEAKER = {
    "fgsm": "a single step",
    "uniform_noise": "random noise",
    "ball": "random noise",
    "square": "a black-box attack",
    "spsa": "a black-box attack",
    "zoo": "a black-box attack",
    "hop_skip_jump": "a black-box attack",
}
MARGIN = 0.01  # shares closer than this are the same
# A few dead or saturated images are in every set; more are a property of the network.
ZERO_SHARE = 0.05
# A sound network, even one that is sure of itself, has most images below these.
SATURATED_SHARE = 0.5
# Where float32 resolves the loss it rises along its gradient; kinks are rare so nearby.
RISES_SHARE = 0.9
# The same program on the same numbers: AutoAttack allows as much.
CALL_CHANGE = 1e-4
# Another batch size is another program, whose rounding differs in a deep network.
BATCH_CHANGE = 1e-3
# AutoAttack takes .002 of a whole test set; of a hundred images two may be luck.
ONLY_SHARE = 0.02
# A small sound network loses up to 7 points from 10 to 40 steps, in L2.
GAIN = 0.1
# The usual scale and a tenth of it differ by a point on a sound network.
SCALE_SHARE = 0.05


def severe(name: str, message: str, **values: float) -> Flag:
    """Makes a severe flag: the robust accuracy is not to be believed."""
    return {"name": name, "severe": True, "message": message, "values": values}


def minor(name: str, message: str, **values: float) -> Flag:
    """Makes a flag that says by how much it may be too high, or where to look."""
    return severe(name, message, **values) | {"severe": False}


def joined(first: Sequence[Flag], more: Sequence[Flag]) -> list[Flag]:
    """Adds flags whose name is not there yet: the first are of more images."""
    names = {flag["name"] for flag in first}
    return [*first, *(flag for flag in more if flag["name"] not in names)]


def from_diagnostics(numbers: Mapping[str, Any], num_classes: int) -> list[Flag]:
    """Flags what `diagnose` found.

    Args:
      numbers: of `diagnose`.
      num_classes: K; chance is 1 / K.
    """
    return [
        *from_calls(numbers["calls"]),
        *from_logits(numbers["logits"], numbers["n"]),
        *from_gradients(numbers["gradients"]),
        *from_runs(numbers, num_classes),
    ]


def from_calls(found: Mapping[str, float | None]) -> list[Flag]:
    """Flags outputs that depend on more than the image."""
    changed = max(found["same_batch"] or 0.0, found["traced_again"] or 0.0)
    if changed > CALL_CHANGE:
        message = (
            f"The same images give other logits when asked again (by {changed:.1%} of "
            "the largest): attacks that follow one draw, and a robust accuracy decided "
            "by one, mean nothing. Pass the randomness as keys and average over it."
        )
        return [severe("outputs_change", message, change=changed)]
    among = max(found["other_batch"] or 0.0, found["other_size"] or 0.0)
    if among > BATCH_CHANGE:
        message = (
            f"The logits of an image change (by {among:.1%} of the largest) with the "
            "other images of its batch, as with BatchNorm in train mode: attacked and "
            "judged are two networks. Pass the network in evaluation mode."
        )
        return [severe("batch_dependent_outputs", message, change=among)]
    return []


def from_logits(found: Mapping[str, Any], n: int) -> list[Flag]:
    """Flags outputs that look like probabilities, or leave a loss no room."""
    flags = []
    if found["probabilities"]:
        message = (
            "The network returns probabilities where logits are expected: losses are "
            "computed on a softmax of a softmax, which hides gradients."
        )
        flags.append(severe("probabilities_as_logits", message))
    certain = max(found["certain_share"], found["no_loss_share"])
    if certain > SATURATED_SHARE:
        message = (
            f"For {certain:.1%} of the images float32 rounds the softmax to exactly 1 "
            "or the cross-entropy to 0: attacks on the cross-entropy may see nothing. "
            "Losses of the margin (AutoAttack's) do."
        )
        flags.append(minor("saturated_logits", message, share=certain))
    ceiling = found["at_ceiling_share"]
    # Of a few images, half may be near the largest by chance.
    if ceiling > SATURATED_SHARE and n >= 10 and not found["probabilities"]:
        message = (
            f"The largest logit of {ceiling:.1%} of the images is the same, as under a "
            "bounded last layer (tanh): it is saturated there, and its gradient gets "
            "lost. Attack what stands before that layer."
        )
        flags.append(severe("bounded_logits", message, share=ceiling))
    return flags


def from_gradients(found: Mapping[str, Any]) -> list[Flag]:
    """Flags gradients that no attack can follow."""
    flags = []
    zero, bad = found["zero_gradient_share"], found["non_finite_gradient_share"]
    if zero > ZERO_SHARE:
        message = (
            f"The input gradient is exactly zero for {zero:.1%} of the images: "
            "gradient attacks cannot move them, so their robust accuracy says little."
        )
        flags.append(severe("zero_gradients", message, share=zero))
    if bad > 0:
        message = f"The input gradient is not finite for {bad:.1%} of the images."
        flags.append(severe("non_finite_gradients", message, share=bad))
    rises = found["loss_rises_share"]
    if rises is not None and rises < RISES_SHARE:
        message = (
            f"A small step along its own gradient raises the loss of only {rises:.1%} "
            "of the images: the gradient is not that of the network (rounded inputs "
            "with a gradient passed straight through?)."
        )
        flags.append(minor("gradients_mislead", message, share=rises))
    return flags


def from_runs(numbers: Mapping[str, Any], num_classes: int) -> list[Flag]:
    """Flags what weak, longer and unbounded attacks of `diagnose` say of the usual."""
    flags, left, n = [], numbers["accuracy"], numbers["n"]
    many = max(1, ONLY_SHARE * n) / n
    single, black = numbers["only_single_step_share"], numbers["only_black_box_share"]
    if single > many:
        message = (
            f"A single step fools {single:.1%} of the images that no point of the "
            "iterative attack fools: it misses what is there (masked gradients?)."
        )
        flags.append(severe("single_step_beats_iterative", message, share=single))
    if black > many:
        message = (
            f"Random noise and {numbers['queries']} queries of a black-box attack fool "
            f"{black:.1%} of the images that no gradient fools: the gradients are "
            "masked."
        )
        flags.append(severe("black_box_beats_white_box", message, share=black))
    hidden, scale = numbers["only_rescaled_share"], numbers["logits"]["rescaled_by"]
    # Small logits hide nothing: enlarged, they only make another, stronger loss.
    if hidden > SCALE_SHARE and scale < 1:
        message = (
            f"Times {scale:.3g}, the logits let the same "
            f"attack fool {hidden:.1%} more of the images: their scale hides these "
            "from the cross-entropy."
        )
        flags.append(severe("scale_hides_gradients", message, share=hidden))
    for name, what in (
        ("more_steps", "Four times the steps"),
        ("more_restarts", f"{numbers['restarts']} more random starts"),
    ):
        gain = left["iterative"] - left[name]
        if gain > GAIN:
            message = (
                f"{what} fool {gain:.1%} more of the images than {numbers['steps']} "
                f"steps: the attack has not converged, and robust accuracy is lower."
            )
            flags.append(minor(f"{name}_gain", message, gain=gain))
    low = statistics.wilson_interval(round(left["covering"] * n), n)[0]
    if low > 1 / num_classes:
        eps = f"{numbers['covering_eps']:.4g}"
        flags.append(_above_chance(eps, left["covering"], num_classes))
    return flags


def _above_chance(eps: str, accuracy: float, num_classes: int) -> Flag:
    message = (
        f"At eps {eps} every image can be turned into the same grey one, yet "
        f"{accuracy:.1%} resist (chance {1 / num_classes:.1%}): "
        "the attack is blind here, and so may it be at smaller radii."
    )
    values = {"accuracy": accuracy, "chance": 1 / num_classes}
    return severe("above_chance_at_largest_eps", message, **values)


def from_attacks(attacks: Sequence[Mapping[str, Any]]) -> list[Flag]:
    """Flags weak attacks that beat iterative ones under the same threat."""
    flags = []
    for weak in attacks:
        if weak["name"] not in WEAKER:
            continue
        strong = [
            other["robust_accuracy"]
            for other in attacks
            if other["name"] in ITERATIVE
            and (other["norm"], other["eps"]) == (weak["norm"], weak["eps"])
        ]
        # Of a few images, one may be luck.
        least = max(MARGIN, 1.5 / weak["n"])
        if strong and weak["robust_accuracy"] < min(strong) - least:
            message = (
                f"{weak['label']} ({WEAKER[weak['name']]}) leaves "
                f"{weak['robust_accuracy']:.1%}, the iterative attacks "
                f"{min(strong):.1%}: they miss what is there (masked gradients?)."
            )
            name = (
                "single_step_beats_iterative"
                if weak["name"] == "fgsm"
                else "black_box_beats_white_box"
            )
            values = {"weak": weak["robust_accuracy"], "iterative": min(strong)}
            flags.append(severe(name, message, **values))
    return flags


def from_curve(curve: Mapping[str, Any], num_classes: int, size: int) -> list[Flag]:
    """Flags a curve that rises, or stays above chance where no network can be.

    Args:
      curve: of `curve.describe`.
      num_classes: K; chance is 1 / K.
      size: numbers per image. A radius that reaches mid-grey from every image (.5 in
        each number) makes all images attackable into one.
    """
    flags, accuracy = [], curve["robust_accuracy"]
    order = np.argsort(curve["eps"])
    rises = np.diff(np.asarray(accuracy)[order])
    if len(rises) and rises.max() > MARGIN:
        message = f"Robust accuracy rises by {rises.max():.1%} with a larger radius."
        flags.append(minor("curve_rises", message, rise=float(rises.max())))
    grey = {"linf": 0.5, "l2": 0.5 * size**0.5, "l1": 0.5 * size}[curve["norm"]]
    last = int(order[-1])
    hits = round(accuracy[last] * curve["n"])
    low = statistics.wilson_interval(hits, curve["n"])[0]
    if curve["eps"][last] >= grey and low > 1 / num_classes:
        written = curve["eps_text"][last]
        flags.append(_above_chance(written, accuracy[last], num_classes))
    return flags
