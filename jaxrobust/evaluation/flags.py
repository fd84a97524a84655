"""Signs that a robust accuracy is not what it seems, each with its numbers.

Athalye et al. 2018 (arXiv 1802.00420, section 3.1) and Carlini et al. 2019 (arXiv
1902.06705, section 3) list the symptoms of masked gradients.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float, Int

from jaxrobust.evaluation import statistics
from jaxrobust.results import analysis_schema


class RaisedFlag(TypedDict):
    """A `schema.Flag` before it is written."""

    name: str
    severe: bool
    message: str
    values: dict[str, Any]


MARGIN = 0.01  # shares closer than this are the same


def least_difference(n: int) -> float:
    """From what difference on two shares of n images are not the same: two images."""
    return max(MARGIN, 1.5 / n)


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
# Of what is above chance: who has so much right has learned something.
LEARNED_SHARE = 0.1
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

_SENTENCES = {
    "learned_nothing": "Clean accuracy is {accuracy:.1%} of {n:,} images, which cannot "
    "be told from chance (the commonest class: {chance:.1%}): as far as they show, the "
    "network has learned nothing.{answer} What resists attacks is no robustness.",
    "outputs_change": "The same images give other logits when asked again (by "
    "{change:.1%} of the usual lead of a class): attacks that follow one draw, and a "
    "robust accuracy decided by one, mean nothing. Pass the randomness as keys and "
    "average over it.",
    "batch_dependent_outputs": "The logits of an image change (by {change:.1%} of the "
    "usual lead of a class) with the other images of its batch, as with BatchNorm in "
    "train mode: attacked and judged are two networks. Pass the network in evaluation "
    "mode.",
    "probabilities_as_logits": "The network returns probabilities where logits are "
    "expected: losses are computed on a softmax of a softmax, which hides gradients.",
    "gradient_inside": "The forward pass seems to take a gradient of the network (a "
    "weight is used forwards and backwards, as where a defence adapts to each image): "
    "AutoAttack follows such a network badly. Attack through its steps, without them, "
    "or by transfer from the network without them.",
    "loop_inside": "The forward pass has a loop that goes on with what it made of the "
    "image (as where a defence purifies it, or solves for something): gradients "
    "through many rounds may fade or explode, and a loop that runs until something "
    "holds has none. Attack with fewer rounds too, past the loop "
    "(`attacks.straight_through`), or by transfer from the network without it.",
    "saturated_logits": "For {share:.1%} of the images float32 rounds the softmax to "
    "exactly 1 or the cross-entropy to 0: attacks on the cross-entropy may see "
    "nothing. Losses of the margin (AutoAttack's) do.",
    "bounded_logits": "The largest logit of {share:.1%} of the images is the same, as "
    "under a bounded last layer (tanh): it is saturated there, and its gradient gets "
    "lost. Attack what stands before that layer.",
    "zero_gradients": "The input gradient is exactly zero for {share:.1%} of the "
    "images, of any loss of the logits: gradient attacks cannot move them, so their "
    "robust accuracy says little.",
    "zero_gradients_on_the_way": "On the way of the attack {share:.1%} of the "
    "gradients are exactly zero, whatever the scale of the logits: it stands "
    "still there.",
    "non_finite_gradients": "The input gradient is not finite for {share:.1%} of the "
    "images.",
    "wrong_gradients": "For {which} of the images the gradient tells {told} of how the "
    "logits change with a small step, where that of a sound network tells over "
    "{sound}. It is not, or only in part, the gradient of this network (something "
    "rounded, random, stopped or smoothed?): attacks that follow it miss what is "
    "there. Attack without gradients (square), or give the part that breaks it a truer "
    "gradient.",
    "gradients_mislead": "A small step along its own gradient raises the loss of only "
    "{share:.1%} of the images: the gradient is not that of the network (rounded "
    "inputs with a gradient passed straight through?).",
    "predictions_jump": "Noise of a thousandth of the range of the images changes the "
    "prediction of {share:.1%} of them: what is attacked is noise as well, and its "
    "gradient tells nothing of a larger step.",
    "attack_raises_accuracy": "A step along the gradient of the loss raises the "
    "accuracy by {raised:.1%} over that of the clean images: the gradient points the "
    "wrong way.",
    "single_step_beats_iterative": "A single step fools {share:.1%} of the images that "
    "no point of the iterative attack fools: it misses what is there (masked "
    "gradients?).",
    "black_box_beats_white_box": "Random noise and {queries} queries of a black-box "
    "attack fool {share:.1%} of the images that no gradient fools: the gradients are "
    "masked.",
    "scale_hides_gradients": "Times {scale:.3g}, the logits let the same attack fool "
    "{share:.1%} more of the images: their scale hides these from the cross-entropy.",
    "more_steps_gain": "Four times the steps fool {gain:.1%} more of the images than "
    "{steps} steps: the attack has not converged, and robust accuracy is lower.",
    "more_restarts_gain": "{restarts} more random starts fool {gain:.1%} more of the "
    "images than {steps} steps: the attack has not converged, and robust accuracy is "
    "lower.",
    "above_chance_at_largest_eps": "At eps {eps} every image can be turned into the "
    "same grey one, yet {accuracy:.1%} resist (chance {chance:.1%}): the attack is "
    "blind here, and so may it be at smaller radii.",
}


def filled(
    sentences: Mapping[str, str],
    name: str,
    told: Mapping[str, Any] | None = None,
    *,
    minor: bool = False,
    **values: Any,
) -> RaisedFlag:
    """Makes a flag with its sentence of a table; `told` is in the sentence alone."""
    message = sentences[name].format(**{**(told or {}), **values})
    return RaisedFlag(name=name, severe=not minor, message=message, values=values)


_flag = functools.partial(filled, _SENTENCES)


def joined(first: Sequence[RaisedFlag], more: Sequence[RaisedFlag]) -> list[RaisedFlag]:
    """Adds flags whose name is not there yet: the first are of more images."""
    names = {flag["name"] for flag in first}
    return [*first, *(flag for flag in more if flag["name"] not in names)]


def from_diagnostics(numbers: analysis_schema.Diagnostics) -> list[RaisedFlag]:
    """Flags what `diagnose` found.

    Of a network that gives all images one class there is nothing to be hidden, and one
    that has learned nothing is not called saturated.
    """
    assert numbers.predictions is not None
    calls, n = from_calls(numbers.calls), numbers.n
    calls += from_program(
        gradient_inside=bool(numbers.gradient_inside),
        loop_inside=bool(numbers.loop_inside),
    )
    nothing = learned_nothing(**vars(numbers.predictions), n=n)
    if nothing and numbers.predictions.constant:
        return [*nothing, *calls]
    logits = [] if nothing else from_logits(numbers.logits, n)
    gradients = from_gradients(numbers.gradients)
    return joined([*nothing, *calls, *logits, *gradients], [*from_runs(numbers)])


def from_program(*, gradient_inside: bool, loop_inside: bool) -> list[RaisedFlag]:
    """Flags what the program of a forward pass shows of a defence that adapts."""
    found = {"gradient_inside": gradient_inside, "loop_inside": loop_inside}
    return [_flag(name, minor=True) for name, seen in found.items() if seen]


def predictions(
    logits: Float[np.ndarray, "N K"], y: Int[np.ndarray, "N"]
) -> analysis_schema.Predictions:
    """Returns what `learned_nothing` judges by, of the clean images and their labels.

    Where all labels are one class, a constant answer says nothing: it is not called so.
    """
    logits, y = np.asarray(logits), np.asarray(y)
    predicted = logits.argmax(-1)
    several = bool((y != y[0]).any())
    return analysis_schema.Predictions(
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
) -> list[RaisedFlag]:
    """Flags a network that cannot be told from one which answers the commonest class.

    Of few images luck may explain much, but not that most of what is above chance is
    right.
    """
    low = statistics.wilson_interval(round(accuracy * n), n)[0]
    if low > chance or accuracy - chance > LEARNED_SHARE * (1 - chance):
        return []
    answer = f" It gives all {n:,} images the same class." if constant else ""
    told = {"n": n, "answer": answer}
    name = "learned_nothing"
    return [_flag(name, told, minor=True, accuracy=accuracy, chance=chance)]


def from_calls(found: analysis_schema.Repeatability) -> list[RaisedFlag]:
    """Flags outputs that depend on more than the image."""
    changed = max(found.same_batch or 0.0, found.traced_again or 0.0)
    if changed > CALL_CHANGE:
        return [_flag("outputs_change", change=changed)]
    among = max(found.other_batch or 0.0, found.other_size or 0.0)
    if among > BATCH_CHANGE:
        return [_flag("batch_dependent_outputs", change=among)]
    return []


def probabilities_as_logits() -> RaisedFlag:
    """Flags a network whose outputs look like probabilities; AutoAttack does too."""
    return _flag("probabilities_as_logits")


def from_logits(found: analysis_schema.LogitsSeen, n: int) -> Iterator[RaisedFlag]:
    """Flags outputs that look like probabilities, or leave a loss no room."""
    if found.probabilities:
        yield probabilities_as_logits()
    certain = max(found.certain_share, found.no_loss_share or 0.0)
    if certain > SATURATED_SHARE:
        yield _flag("saturated_logits", minor=True, share=certain)
    ceiling = found.at_ceiling_share
    # Of a few images, half may be near the largest by chance.
    if ceiling > SATURATED_SHARE and n >= 10 and not found.probabilities:
        yield _flag("bounded_logits", share=ceiling)


def from_gradients(found: analysis_schema.Gradients) -> Iterator[RaisedFlag]:
    """Flags gradients that no attack can follow."""
    # That of the cross-entropy may round to zero where that of the logits does not.
    if found.zero_slope_share > ZERO_SHARE:
        yield _flag("zero_gradients", share=found.zero_slope_share)
    if found.non_finite_gradient_share > 0:
        yield _flag("non_finite_gradients", share=found.non_finite_gradient_share)
    yield from from_gradient_check(found)


def from_gradient_check(found: analysis_schema.GradientCheck) -> Iterator[RaisedFlag]:
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
        words = {"which": which, "told": told, "sound": f"{EXPLAINED_NEAR:.0%}"}
        yield _flag("wrong_gradients", words, explained=least, misled=misled)
    if rises is not None and rises < RISES_SHARE:
        yield _flag("gradients_mislead", share=rises)
    changed = found.changed_share or 0.0
    if changed > CHANGED_SHARE:
        yield _flag("predictions_jump", share=changed)


def from_runs(numbers: analysis_schema.Diagnostics) -> Iterator[RaisedFlag]:
    """Flags what weak, longer and unbounded attacks of `diagnose` say of the usual."""
    left = numbers.accuracy
    n, counts = numbers.n, vars(numbers)
    if (stuck := numbers.zero_gradient_share_attacked) > ZERO_SHARE:
        found = _flag("zero_gradients_on_the_way", share=stuck)
        yield RaisedFlag(**{**found, "name": "zero_gradients"})
    if numbers.raised > least_difference(n):
        yield _flag("attack_raises_accuracy", raised=numbers.raised)
    many = max(1, ONLY_SHARE * n) / n
    if (single := numbers.only_single_step_share) > many:
        yield _flag("single_step_beats_iterative", share=single)
    if (black := numbers.only_black_box_share) > many:
        yield _flag("black_box_beats_white_box", counts, share=black)
    hidden, scale = numbers.only_rescaled_share, numbers.logits.rescaled_by
    # Small logits hide nothing: enlarged, they only make another, stronger loss.
    if hidden > SCALE_SHARE and scale < 1:
        yield _flag("scale_hides_gradients", {"scale": scale}, share=hidden)
    usual, covering = left.iterative or 0.0, left.covering or 0.0
    for name, share in (
        ("more_steps_gain", left.more_steps),
        ("more_restarts_gain", left.more_restarts),
    ):
        if (gain := usual - (share or 0.0)) > GAIN:
            yield _flag(name, counts, minor=True, gain=gain)
    low = statistics.wilson_interval(round(covering * n), n)[0]
    assert numbers.predictions is not None
    chance = numbers.predictions.chance
    if low > chance:
        yield above_chance(f"{numbers.covering_eps:.4g}", covering, chance)


def above_chance(eps: str, accuracy: float, chance: float) -> RaisedFlag:
    """Flags an attack that leaves too much where it could do anything."""
    name = "above_chance_at_largest_eps"
    return _flag(name, {"eps": eps}, accuracy=accuracy, chance=chance)
