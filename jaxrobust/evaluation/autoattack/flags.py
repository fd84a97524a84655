"""Signs that AutoAttack's own numbers are not to be trusted, and their sentences.

Gradients are looked at for a few images, 13 gradients and 51 forward passes each, where
a robust one takes some 1,900 and 5,900; of a randomised model they are not.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrobust.evaluation import flags, slopes
from jaxrobust.evaluation import logits as of_logits
from jaxrobust.evaluation.autoattack.result import State
from jaxrobust.evaluation.autoattack.setup import Setup
from jaxrobust.evaluation.diagnose import gradient_check
from jaxrobust.results import analysis_schema as schema

# Of the typical lead: far above what another batch shape rounds, half precision too.
_CHANGE = 3e-2
# Steps of the logits' dtype in a typical lead, below which ties decide verdicts.
_STEPS = 50
_SQUARE_MARGIN = 0.002  # as the reference
# Up to here luck explains it, on networks whose gradients nothing else doubts.
_SQUARE_LUCK = 0.02
_STUCK_SHARE = 0.01
# Of the images: more rejected successes than this are no matter of rounding.
_REJECTED_SHARE = 0.01
_CHECKED, _DIRECTIONS = 64, 4
# What the check of the gradients tells of, and is kept.
_OF_CHECK = (
    "explained",
    "explained_near",
    "misled_share",
    "loss_rises_share",
    "changed_share",
)
# Of a network that gives all images one class there is nothing that could be moved.
_OF_CONSTANT = ("zero_gradients", "black_box_beats_white_box")
# What `numbers_of` tells of the outputs alone.
NUMBERS = ("probabilities", "change", "noise", "lead", "step")
# And what its program alone tells.
ADAPTS = ("gradient_inside", "loop_inside")

_SENTENCES = {
    "outputs_change": "The logits of an image change when it is called again in "
    "another batch, by {change:.1%} of the lead that the largest usually has: the "
    "model is randomised or in training mode (BatchNorm, dropout). Use evaluation "
    "mode, or stochastic=True with version='rand'.",
    "coarse_logits": "The two largest logits usually differ by {lead:.2g}, and their "
    "numbers are {step:.2g} apart: many tie, and the first of them counts. Return "
    "logits in float32, without a constant that all share.",
    "randomised_model": "The model is randomised, but version={version!r} follows the "
    "gradients of single draws: use version='rand'.",
    "deterministic_model": "version='rand' is for randomised models, but this one "
    "gives the same logits in every draw: version='standard' is the stronger attack.",
    "zero_gradients": "For {share:.1%} of the images, which no gradient attack fooled, "
    "the gradient was zero at every step of a run of each: it could not move them.",
    "non_finite_logits": "The logits of {number} images that count as robust were not "
    "finite at points that attacks tried, and such points count as no success: if they "
    "count as wrong, the robust accuracy is {without:.1%}. Look for an overflow (half "
    "precision?), a division by 0 or a logarithm of 0 in the network.",
    "unconfirmed_adversarials": "{number} adversarial images did not stand a second "
    "look (another batch shape, ball and bounds in float64), and the attacks went on. "
    "They are of {images} images that count as robust: without that look the robust "
    "accuracy would be {without:.1%}.",
    # Of one image it may be luck.
    "black_box_beats_white_box": "Square, which uses no gradients, lowered the robust "
    "accuracy by {gained:.1%} after the attacks that use them: masked gradients? Try "
    "more queries, or an adaptive attack.",
}


def raised(setup: Setup, state: State) -> list[flags.RaisedFlag]:
    """Turns the numbers of a finished evaluation into flags."""
    own = [*_of_model(setup, state), *_of_stages(state)]
    numbers = state.numbers
    plain = numbers["clean_accuracy"], numbers["clean_chance"], len(state.clean)
    constant = bool(numbers["clean_constant"])
    nothing = flags.learned_nothing(*plain, constant=constant)
    if nothing and constant:
        kept = [flag for flag in own if flag["name"] not in _OF_CONSTANT]
        return flags.joined(kept, nothing)
    checked: Any = {name: numbers.get(name) for name in _OF_CHECK}
    more = flags.from_gradient_check(schema.GradientCheck(**checked))
    return flags.joined(own, [*nothing, *more])


_flag = functools.partial(flags.filled, _SENTENCES)


def _of_model(setup: Setup, state: State) -> list[flags.RaisedFlag]:
    """Flags what the logits of clean images say."""
    numbers, found, version = state.numbers, [], setup.version
    _, change, noise, lead, step = (numbers[name] for name in NUMBERS)
    if numbers["probabilities"]:
        found.append(flags.probabilities_as_logits())
    if change > _CHANGE:
        found.append(_flag("outputs_change", change=change))
    # States of before have no such numbers.
    adapts = {name: bool(numbers.get(name)) for name in ADAPTS}
    found += flags.from_program(**adapts)
    if lead < _STEPS * step:
        found.append(_flag("coarse_logits", minor=True, lead=lead, step=step))
    if setup.stochastic and version != "rand":
        found.append(_flag("randomised_model", {"version": version}, noise=noise))
    if version == "rand" and noise == 0:
        found.append(_flag("deterministic_model", minor=True))
    return found


def _of_stages(state: State) -> list[flags.RaisedFlag]:
    """Flags what the attacks say."""
    found, robust, count = [], state.robust, len(state.clean)
    unmoved, gained = robust, 0.0
    names = [stage.name for stage in state.stages]
    if "square" in names:
        place = names.index("square")
        after = [state.clean, *(stage.robust for stage in state.stages)]
        by_square = after[place] & ~after[place + 1]
        unmoved, gained = unmoved | by_square, float(by_square.mean())
    if (share := float((state.zero_gradient & unmoved).mean())) > _STUCK_SHARE:
        found.append(_flag("zero_gradients", share=share))
    if odd := int((robust & state.not_finite).sum()):
        told = {"without": float(robust.mean()) - odd / count}
        found.append(_flag("non_finite_logits", told, number=odd))
    if lost := int(state.rejected.sum()):
        kept = int((robust & (state.rejected > 0)).sum())
        few = kept / count <= _REJECTED_SHARE or kept == 1
        told = {"without": float(robust.mean()) - kept / count}
        name = "unconfirmed_adversarials"
        found.append(_flag(name, told, minor=few, number=lost, images=kept))
    if gained > _SQUARE_MARGIN and round(gained * count) > 1:
        few = gained <= _SQUARE_LUCK
        found.append(_flag("black_box_beats_white_box", minor=few, gained=gained))
    return found


def numbers_of(setup: Setup, clean: Float[np.ndarray, "N K"]) -> dict[str, float]:
    """Returns the numbers behind the flags, of clean images and their logits.

    `probabilities`: 1 where all rows look like them. `change`: by how much of a typical
    lead that of an image changes in another batch, in other company and order.
    `noise`: by how much that of a randomised model changes in another draw. `lead` is
    the typical one, `step` the smallest difference of the logits that lead.
    """
    (x, y, keys), look = setup.examples, setup.second_look
    rows = np.arange(min(len(x), _CHECKED))[::-1]
    dtype = look.model.out.dtype
    again, noise = look(x[rows], keys[rows]), 0.0
    if setup.stochastic:
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys[rows], 1)
        noise = float(of_logits.lead_change(again, look(x[rows], fresh), dtype).max())
    return {
        "probabilities": float(of_logits.looks_like_probabilities(clean)),
        "change": float(of_logits.lead_change(clean[rows], again, dtype).max()),
        "noise": noise,
        "lead": of_logits.typical_lead(clean, tied=0.0),
        "step": float(np.median(of_logits.lead_spacing(clean, dtype))),
        "gradient_inside": float(look.turns_weights_round),
        "loop_inside": float(look.refines_in_a_loop),
        **{
            f"clean_{k}": float(v) for k, v in vars(flags.predictions(clean, y)).items()
        },
        **({} if setup.stochastic else _of_gradients(setup)),
    }


def _of_gradients(setup: Setup) -> dict[str, float]:
    """Returns whether the gradients that are followed are those of the network."""
    (x, y, keys), look = setup.examples, setup.second_look
    measured = slopes.measure(
        look,
        functools.partial(look.gradient_fn(seldom=True), odds=True),
        jnp.asarray(x[:_CHECKED]),
        jnp.asarray(y[:_CHECKED]),
        keys=keys[:_CHECKED],
        resolution=look.resolution,
        directions=_DIRECTIONS,
        ball=setup.ball,
    )
    found = vars(gradient_check(measured, look.resolution))
    return {name: found[name] for name in _OF_CHECK if found[name] is not None}
