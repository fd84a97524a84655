"""Signs that AutoAttack's own numbers are not to be trusted, and their sentences."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxrobust.analysis import looks_like_probabilities
from jaxrobust.array_types import Key
from jaxrobust.evaluation import flags as common
from jaxrobust.evaluation.autoattack import leads
from jaxrobust.evaluation.autoattack.forward import Forward
from jaxrobust.evaluation.autoattack.result import StageResult
from jaxrobust.evaluation.autoattack.settings import Standing

# Of the typical lead: far above what another batch shape rounds, half precision too.
_CHANGE = 3e-2
# Steps of the logits' dtype in a typical lead, below which ties decide verdicts.
_STEPS = 50
_SQUARE_MARGIN = 0.002  # as the reference
_STUCK_SHARE = 0.01
_CHECKED = 64
# What `of_outputs` tells.
NUMBERS = ("probabilities", "change", "noise", "lead", "step")
# Of the images: more rejected successes than this are no matter of rounding.
_REJECTED_SHARE = 0.01


def of_outputs(
    clean: Float[np.ndarray, "N K"],
    x: Float[np.ndarray, "N H W C"],
    keys: Key,
    check: Forward,
    *,
    stochastic: bool,
) -> dict[str, float]:
    """Returns numbers about the logits of clean images.

    `probabilities`: 1 where all rows look like them. `change`: by how much of a typical
    lead that of an image changes in another batch, in other company and order.
    `noise`: by how much that of a randomised model changes in another draw. `lead` is
    the typical one, `step` the smallest difference of the logits that lead.
    """
    rows = np.arange(min(len(x), _CHECKED))[::-1]
    dtype = check.model.out.dtype
    again, noise = check(x[rows], keys), 0.0
    if stochastic:
        again = check(x[rows], keys[rows])
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys[rows], 1)
        noise = float(leads.change(again, check(x[rows], fresh), dtype).max())
    return {
        "probabilities": float(looks_like_probabilities(clean)),
        "change": float(leads.change(clean[rows], again, dtype).max()),
        "noise": noise,
        "lead": float(leads.typical(clean)),
        "step": float(np.median(leads.steps(clean, dtype))),
    }


def flags(
    standing: Standing,
    stages: Sequence[StageResult],
    version: str,
    *,
    stochastic: bool,
) -> list[dict[str, Any]]:
    """Turns numbers into flags, as `evaluation.flags` makes them."""
    raised = []
    found, robust, stuck = standing.flagged, standing.robust, standing.stuck

    def flag(name: str, message: str, *, minor: bool = False, **values: float) -> None:
        make = common.minor if minor else common.severe
        raised.append(make(name, message, **values))

    if found["probabilities"]:
        flag(
            "probabilities_as_logits",
            "The model returns probabilities where logits are expected: losses are "
            "computed on a softmax of a softmax, which hides gradients.",
        )
    if found["change"] > _CHANGE:
        flag(
            "outputs_change",
            "The logits of an image change when it is called again in another batch, "
            f"by {found['change']:.1%} of the lead that the largest usually has: the "
            "model is randomised or in training mode (BatchNorm, dropout). Use "
            "evaluation mode, or stochastic=True with version='rand'.",
            change=found["change"],
        )
    if found["lead"] < _STEPS * found["step"]:
        flag(
            "coarse_logits",
            f"The two largest logits usually differ by {found['lead']:.2g}, and their "
            f"numbers are {found['step']:.2g} apart: many tie, and the first of them "
            "counts. Return logits in float32, without a constant that all share.",
            minor=True,
            lead=found["lead"],
            step=found["step"],
        )
    if stochastic and version != "rand":
        flag(
            "randomised_model",
            f"The model is randomised, but version={version!r} follows the gradients "
            "of single draws: use version='rand'.",
            noise=found["noise"],
        )
    if version == "rand" and found["noise"] == 0:
        flag(
            "deterministic_model",
            "version='rand' is for randomised models, but this one gives the same "
            "logits in every draw: version='standard' is the stronger attack.",
            minor=True,
        )
    names = [stage.name for stage in stages]
    unmoved, gained = robust[-1], 0.0
    if "square" in names:
        place = names.index("square")
        by_square = robust[place] & ~robust[place + 1]
        unmoved, gained = unmoved | by_square, float(by_square.mean())
    if (share := float((stuck & unmoved).mean())) > _STUCK_SHARE:
        flag(
            "zero_gradients",
            f"For {share:.1%} of the images, which no gradient attack fooled, the "
            "gradient was zero at every step of a run of each: it could not move them.",
            share=share,
        )
    if lost := int(standing.rejected.sum()):
        kept = int((robust[-1] & (standing.rejected > 0)).sum())
        share = kept / len(stuck)
        flag(
            "unconfirmed_adversarials",
            f"{lost} adversarial images did not stand a second look (another batch "
            "shape, ball and bounds in float64), and the attacks went on. They are of "
            f"{kept} images that count as robust: without that look the robust "
            f"accuracy would be {float(robust[-1].mean()) - share:.1%}.",
            minor=share <= _REJECTED_SHARE or kept == 1,
            number=lost,
            images=kept,
        )
    # One image may be luck.
    if gained > _SQUARE_MARGIN and round(gained * len(stuck)) > 1:
        flag(
            "black_box_beats_white_box",
            f"Square, which uses no gradients, lowered the robust accuracy by "
            f"{gained:.1%} after the attacks that use them: masked gradients? Try "
            "more queries, or an adaptive attack.",
            gained=gained,
        )
    return raised
