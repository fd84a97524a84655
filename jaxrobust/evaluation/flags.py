"""Signs that a robust accuracy is not what it seems, each with its numbers.

Athalye et al. 2018 (arXiv 1802.00420, section 3.1) and Carlini et al. 2019 (arXiv
1902.06705, section 3) list the symptoms of masked gradients.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float, Int

from jaxrobust.evaluation import statistics
from jaxrobust.results import schema


class Flag(TypedDict):
    """A `schema.Flag` before it is written."""

    name: str
    severe: bool
    message: str
    values: dict[str, Any]


MARGIN = 0.01  # shares closer than this are the same
# For three quarters of the images a sound network's gradient explains .86 to 1 of how
# the log-odds change, damaged ones 0 to .6.
EXPLAINED = 0.7
# Within a thousandth hardly any kink lies: in float32 that is .98 to 1 of sound ones,
# and .73 to .8 of those whose gradient lacks a smaller part.
EXPLAINED_NEAR = 0.85
# Gradients may be broken for some classes alone: of two of ten they tell under .6
# of the change for 12 to 18 % of the images; sound ones for 2 %, in bfloat16 for 5 %.
MISLED_SHARE = 0.1
# A random step of a thousandth changes the class of 2 % of a sound network's images.
CHANGED_SHARE = 0.05
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
    return Flag(name=name, severe=True, message=message, values=values)


def minor(name: str, message: str, **values: float) -> Flag:
    """Makes a flag that says by how much it may be too high, or where to look."""
    return Flag(name=name, severe=False, message=message, values=values)


def joined(first: Sequence[Flag], more: Sequence[Flag]) -> list[Flag]:
    """Adds flags whose name is not there yet: the first are of more images."""
    names = {flag["name"] for flag in first}
    return [*first, *(flag for flag in more if flag["name"] not in names)]


def from_diagnostics(numbers: schema.Diagnostics) -> list[Flag]:
    """Flags what `diagnose` found.

    Of a network that gives all images one class there is nothing to be hidden, and one
    that has learned nothing is not called saturated.
    """
    assert numbers.predictions is not None
    calls, n = from_calls(numbers.calls), numbers.n
    nothing = learned_nothing(**vars(numbers.predictions), n=n)
    if nothing and numbers.predictions.constant:
        return [*nothing, *calls]
    logits = [] if nothing else from_logits(numbers.logits, n)
    gradients = from_gradients(numbers.gradients)
    return joined([*nothing, *calls, *logits, *gradients], [*from_runs(numbers)])


def predictions(
    logits: Float[np.ndarray, "N K"], y: Int[np.ndarray, "N"]
) -> schema.Predictions:
    """Returns what `learned_nothing` judges by, of the clean images and their labels.

    Where all labels are one class, a constant answer says nothing: it is not called so.
    """
    logits, y = np.asarray(logits), np.asarray(y)
    predicted = logits.argmax(-1)
    several = bool((y != y[0]).any())
    return schema.Predictions(
        accuracy=float((predicted == y).mean()),
        chance=chance_of(y, logits.shape[-1]),
        constant=several and bool((predicted == predicted[0]).all()),
    )


def chance_of(y: Int[np.ndarray, "N"], classes: int) -> float:
    """Returns the share of the commonest label; 1 / `classes` where all are one."""
    counts = np.unique(np.asarray(y), return_counts=True)[1]
    return float(counts.max() / len(y)) if len(counts) > 1 else 1 / classes


def learned_nothing(
    accuracy: float, chance: float, n: int, *, constant: bool = False
) -> list[Flag]:
    """Flags a network that is no better than always answering the commonest class."""
    low = statistics.wilson_interval(round(accuracy * n), n)[0]
    if low > chance:
        return []
    answer = f" It gives all {n:,} images the same class." if constant else ""
    message = (
        f"Clean accuracy is {accuracy:.1%} of {n:,} images, no better than chance (the "
        f"commonest class: {chance:.1%}): the network has learned nothing.{answer} "
        "What resists attacks is no robustness."
    )
    return [minor("learned_nothing", message, accuracy=accuracy, chance=chance)]


def from_calls(found: schema.Calls) -> list[Flag]:
    """Flags outputs that depend on more than the image."""
    changed = max(found.same_batch or 0.0, found.traced_again or 0.0)
    if changed > CALL_CHANGE:
        message = (
            f"The same images give other logits when asked again (by {changed:.1%} of "
            "the usual lead of a class): attacks that follow one draw, and a robust "
            "accuracy decided by one, mean nothing. Pass the randomness as keys and "
            "average over it."
        )
        return [severe("outputs_change", message, change=changed)]
    among = max(found.other_batch or 0.0, found.other_size or 0.0)
    if among > BATCH_CHANGE:
        message = (
            f"The logits of an image change (by {among:.1%} of the usual lead of a "
            "class) with the other images of its batch, as with BatchNorm in train "
            "mode: attacked and judged are two networks. Pass the network in "
            "evaluation mode."
        )
        return [severe("batch_dependent_outputs", message, change=among)]
    return []


def from_logits(found: schema.LogitsSeen, n: int) -> Iterator[Flag]:
    """Flags outputs that look like probabilities, or leave a loss no room."""
    if found.probabilities:
        message = (
            "The network returns probabilities where logits are expected: losses are "
            "computed on a softmax of a softmax, which hides gradients."
        )
        yield severe("probabilities_as_logits", message)
    certain = max(found.certain_share, found.no_loss_share or 0.0)
    if certain > SATURATED_SHARE:
        message = (
            f"For {certain:.1%} of the images float32 rounds the softmax to exactly 1 "
            "or the cross-entropy to 0: attacks on the cross-entropy may see nothing. "
            "Losses of the margin (AutoAttack's) do."
        )
        yield minor("saturated_logits", message, share=certain)
    ceiling = found.at_ceiling_share
    # Of a few images, half may be near the largest by chance.
    if ceiling > SATURATED_SHARE and n >= 10 and not found.probabilities:
        message = (
            f"The largest logit of {ceiling:.1%} of the images is the same, as under a "
            "bounded last layer (tanh): it is saturated there, and its gradient gets "
            "lost. Attack what stands before that layer."
        )
        yield severe("bounded_logits", message, share=ceiling)


def from_gradients(found: schema.Gradients) -> Iterator[Flag]:
    """Flags gradients that no attack can follow."""
    # That of the cross-entropy may round to zero where that of the logits does not.
    zero, bad = found.zero_slope_share, found.non_finite_gradient_share
    if zero > ZERO_SHARE:
        message = (
            f"The input gradient is exactly zero for {zero:.1%} of the images, of any "
            "loss of the logits: gradient attacks cannot move them, so their robust "
            "accuracy says little."
        )
        yield severe("zero_gradients", message, share=zero)
    if bad > 0:
        message = f"The input gradient is not finite for {bad:.1%} of the images."
        yield severe("non_finite_gradients", message, share=bad)
    yield from from_gradient_check(found)


def from_gradient_check(found: schema.GradientCheck) -> Iterator[Flag]:
    """Flags a gradient that is not, or not all of, the network's."""
    explained, near = found.explained, found.explained_near
    misled, rises = found.misled_share or 0.0, found.loss_rises_share
    least = min(value for value in (explained, near, 1.0) if value is not None)
    which = told = ""
    if (explained is not None and explained < EXPLAINED) or (
        near is not None and near < EXPLAINED_NEAR
    ):
        which, told = "a quarter", f"{max(least, 0):.0%} at most"
    elif misled > MISLED_SHARE:
        which, told = f"{misled:.0%}", "under 60%"
    if which:
        message = (
            f"For {which} of the images the gradient tells {told} of how the logits "
            "change with a small step, where that of a sound network tells over 85%. "
            "It is not, or only in part, the gradient of this network (something "
            "rounded, random, stopped or smoothed?): attacks that follow it miss what "
            "is there. Attack without gradients (square), or give the part that breaks "
            "it a truer gradient."
        )
        yield severe("wrong_gradients", message, explained=least, misled=misled)
    if rises is not None and rises < RISES_SHARE:
        message = (
            f"A small step along its own gradient raises the loss of only {rises:.1%} "
            "of the images: the gradient is not that of the network (rounded inputs "
            "with a gradient passed straight through?)."
        )
        yield severe("gradients_mislead", message, share=rises)
    changed = found.changed_share or 0.0
    if changed > CHANGED_SHARE:
        message = (
            "Noise of a thousandth of the range of the images changes the prediction "
            f"of {changed:.1%} of them: what is attacked is noise as well, and its "
            "gradient tells nothing of a larger step."
        )
        yield severe("predictions_jump", message, share=changed)


def from_runs(numbers: schema.Diagnostics) -> Iterator[Flag]:
    """Flags what weak, longer and unbounded attacks of `diagnose` say of the usual."""
    left = {name: share or 0.0 for name, share in numbers.accuracy.items()}
    n, raised = numbers.n, numbers.raised
    stuck = numbers.zero_gradient_share_attacked
    if stuck > ZERO_SHARE:
        message = (
            f"On the way of the attack {stuck:.1%} of the gradients are exactly zero, "
            "whatever the scale of the logits: it stands still there."
        )
        yield severe("zero_gradients", message, share=stuck)
    if raised > max(MARGIN, 1.5 / n):
        message = (
            "A step along the gradient of the loss raises the accuracy by "
            f"{raised:.1%} over that of the clean images: the gradient points the "
            "wrong way."
        )
        yield severe("attack_raises_accuracy", message, raised=raised)
    many = max(1, ONLY_SHARE * n) / n
    single, black = numbers.only_single_step_share, numbers.only_black_box_share
    if single > many:
        message = (
            f"A single step fools {single:.1%} of the images that no point of the "
            "iterative attack fools: it misses what is there (masked gradients?)."
        )
        yield severe("single_step_beats_iterative", message, share=single)
    if black > many:
        message = (
            f"Random noise and {numbers.queries} queries of a black-box attack fool "
            f"{black:.1%} of the images that no gradient fools: the gradients are "
            "masked."
        )
        yield severe("black_box_beats_white_box", message, share=black)
    hidden, scale = numbers.only_rescaled_share, numbers.logits.rescaled_by
    # Small logits hide nothing: enlarged, they only make another, stronger loss.
    if hidden > SCALE_SHARE and scale < 1:
        message = (
            f"Times {scale:.3g}, the logits let the same "
            f"attack fool {hidden:.1%} more of the images: their scale hides these "
            "from the cross-entropy."
        )
        yield severe("scale_hides_gradients", message, share=hidden)
    for name, what in (
        ("more_steps", "Four times the steps"),
        ("more_restarts", f"{numbers.restarts} more random starts"),
    ):
        gain = left["iterative"] - left[name]
        if gain > GAIN:
            message = (
                f"{what} fool {gain:.1%} more of the images than {numbers.steps} "
                f"steps: the attack has not converged, and robust accuracy is lower."
            )
            yield minor(f"{name}_gain", message, gain=gain)
    low = statistics.wilson_interval(round(left["covering"] * n), n)[0]
    assert numbers.predictions is not None
    chance = numbers.predictions.chance
    if low > chance:
        yield above_chance(f"{numbers.covering_eps:.4g}", left["covering"], chance)


def above_chance(eps: str, accuracy: float, chance: float) -> Flag:
    """Flags an attack that leaves too much where it could do anything."""
    message = (
        f"At eps {eps} every image can be turned into the same grey one, yet "
        f"{accuracy:.1%} resist (chance {chance:.1%}): "
        "the attack is blind here, and so may it be at smaller radii."
    )
    name = "above_chance_at_largest_eps"
    return severe(name, message, accuracy=accuracy, chance=chance)
