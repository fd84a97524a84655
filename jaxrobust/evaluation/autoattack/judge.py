"""A second look at every adversarial image, independent of the attack that made it."""

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrobust.array_types import Key
from jaxrobust.evaluation import verify
from jaxrobust.evaluation.autoattack.forward import Forward

_DRAW_STREAM = 0x6A756467


def is_wrong(
    logits: Float[np.ndarray, "n K"], y: Int[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Returns which rows are finite and predict another class."""
    return np.isfinite(logits).all(-1) & (logits.argmax(-1) != y)


def confirmed(
    forward: Forward,
    x_adv: Float[np.ndarray, "n H W C"],
    x: Float[np.ndarray, "n H W C"],
    y: Int[np.ndarray, "n"],
    ball: verify.Ball,
) -> Bool[np.ndarray, "n"]:
    """Returns which adversarial images stand.

    They are finite, inside ball and bounds, measured in float64, and fool the model in
    another batch shape.
    """
    if not len(x):
        return np.zeros(0, bool)
    outside = verify.measure(x_adv, x, ball)[1]
    return ~outside & is_wrong(forward(x_adv), y)


def correct_share(
    forward: Forward,
    x: Float[np.ndarray, "n H W C"],
    y: Int[np.ndarray, "n"],
    keys: Key,
    draws: int,
) -> Float[np.ndarray, "n"]:
    """Returns how often a randomised model is right about each image, in fresh draws.

    Raises:
      ValueError: for logits that are not finite.
    """
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
