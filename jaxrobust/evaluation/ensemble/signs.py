"""Signs that AutoAttack's own numbers are not to be trusted, and their sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from jaxrobust.array_types import Key
from jaxrobust.evaluation import flags as common
from jaxrobust.evaluation.ensemble.forward import Forward
from jaxrobust.evaluation.ensemble.result import StageResult

_CHANGE = 1e-2  # of the largest logit: far above what another batch shape rounds
_SQUARE_MARGIN = 0.002  # as the reference
_STUCK_SHARE = 0.01
_CHECKED = 64


def of_outputs(
    clean: Float[np.ndarray, "N K"],
    x: Float[np.ndarray, "N H W C"],
    keys: Key,
    check: Forward,
    *,
    stochastic: bool,
) -> dict[str, float]:
    """Returns numbers about the logits of clean images.

    `probabilities`: 1 where all rows look like them. `change`: by how much of the
    largest logit those of an image change in another batch, in other company and
    order. `noise`: by how much those of a randomised model change in another draw.
    """
    rows = np.arange(min(len(x), _CHECKED))[::-1]
    size = max(float(np.abs(clean).max()), 1e-30)
    again, noise = check(x[rows], keys), 0.0
    if stochastic:
        again = check(x[rows], keys[rows])
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys[rows], 1)
        noise = float(np.abs(check(x[rows], fresh) - again).max() / size)
    sums = np.abs(clean.sum(-1) - 1).max()
    return {
        "probabilities": float(clean.min() >= 0 and sums < 1e-3),
        "change": float(np.nan_to_num(np.abs(again - clean[rows])).max() / size),
        "noise": noise,
    }


def flags(
    found: Mapping[str, float],
    stuck: Bool[np.ndarray, "N"],
    robust: Sequence[Bool[np.ndarray, "N"]],
    stages: Sequence[StageResult],
    version: str,
    *,
    stochastic: bool,
) -> list[dict[str, Any]]:
    """Turns numbers into flags, as `evaluation.flags` makes them."""
    raised = []

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
            f"by {found['change']:.1%} of the largest logit: the model is randomised "
            "or in training mode (BatchNorm, dropout). Use evaluation mode, or "
            "stochastic=True with version='rand'.",
            change=found["change"],
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
            "gradient was zero at every step of a run: it could not move them.",
            share=share,
        )
    if lost := found.get("unconfirmed", 0):
        flag(
            "unconfirmed_adversarials",
            f"{lost:.0f} adversarial images did not stand a second look (another batch "
            "shape, ball and bounds in float64); they count as robust.",
            minor=True,
            number=lost,
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
