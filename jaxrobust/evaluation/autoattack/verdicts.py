"""A second look at every adversarial image, independent of the attack that made it."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrobust.array_types import Key
from jaxrobust.evaluation import verify
from jaxrobust.evaluation.autoattack.forward import Forward
from jaxrobust.evaluation.autoattack.setup import Setup

_DRAW_STREAM = 0x6A756467


def is_wrong(
    logits: Float[np.ndarray, "n K"], y: Int[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Returns which rows are finite and predict another class."""
    return np.isfinite(logits).all(-1) & (logits.argmax(-1) != y)


def confirmed(
    setup: Setup,
    numbers: Int[np.ndarray, "n"],
    x_adv: Float[np.ndarray, "n H W C"],
) -> Bool[np.ndarray, "n"]:
    """Returns which adversarial images stand, given the numbers of their images.

    They are finite, inside ball and bounds, measured in float64, and fool the model in
    another batch shape.
    """
    if not len(numbers):
        return np.zeros(0, bool)
    x, y = setup.examples.x[numbers], setup.examples.y[numbers]
    outside = verify.measure(x_adv, x, setup.ball)[1]
    return ~outside & is_wrong(setup.second_look(x_adv), y)


def correct_share(
    forward: Forward,
    x: Float[np.ndarray, "n H W C"],
    y: Int[np.ndarray, "n"],
    keys: Key,
    draws: int,
) -> Float[np.ndarray, "n"]:
    """Returns in which share of fresh draws a randomised model is right, per image."""
    right = np.zeros(len(x))
    for draw in range(draws if len(x) else 0):
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys, _DRAW_STREAM + draw)
        logits = forward(x, fresh)
        if not np.isfinite(logits).all():
            raise ValueError(
                "the model's logits are not finite in one of its draws: they are no "
                "predictions; check the model's noise."
            )
        right += logits.argmax(-1) == y
    return right / draws


def worst_points(
    setup: Setup,
    x_adv: Float[np.ndarray, "N H W C"],
    share: Float[np.ndarray, "N"],
    found: Mapping[int, tuple[np.ndarray, ...]],
) -> tuple[Float[np.ndarray, "N H W C"], Float[np.ndarray, "N"]]:
    """Puts what a stage has found in place of better points.

    `share` are the draws in which each of the worst points so far is right. Points of a
    deterministic model that were found fool it, those of a randomised one are judged
    here. Returns the worst points and their shares now.
    """
    if not found:
        return x_adv, share
    x_adv, share = x_adv.copy(), share.copy()
    for run in range(max(len(points) for points in found.values())):
        some = np.asarray(sorted(n for n in found if run < len(found[n])), np.int64)
        points = np.stack([found[n][run] for n in some.tolist()])
        if not setup.stochastic:
            x_adv[some], share[some] = points, 0
            continue
        x, y, keys = setup.examples
        inside = ~verify.measure(points, x[some], setup.ball)[1]
        right = correct_share(
            setup.second_look, points, y[some], keys[some], setup.draws
        )
        worse = inside & (right < share[some])
        x_adv[some[worse]], share[some[worse]] = points[worse], right[worse]
    return x_adv, share
