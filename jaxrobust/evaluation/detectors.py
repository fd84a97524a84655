"""Detectors: a network that may reject an image, and attacks on both.

A detector is a function of images to a score `[B]`; what is above a threshold, set on
clean images, is rejected. How-to: docs/how_to/defend_by_preprocessing.md.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool

from jaxrobust import _checks, attacks, losses
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, Logits, LogitsFn, PerExample

Detector = Callable[[Images], PerExample]

_LARGEST = float(np.finfo(np.float64).max)
_SHARE = Range(0, math.nextafter(1, 0), rule="a share in [0, 1)")
_ANY = Range(-math.inf, math.inf, rule="one number, not NaN")
_FINITE = Range(-_LARGEST, _LARGEST, rule="one finite number")
_SPREAD = Range(0, _LARGEST, above=True, rule="above 0 and finite")


def threshold_at(scores: ArrayLike, false_rejection: float = 0.05) -> float:
    """Returns the threshold that at most so large a share of clean images is above.

    Take images that no number is reported on.

    Args:
      scores: of clean images, `[N]`.
      false_rejection: share of them that may be rejected, in [0, 1).

    Raises:
      ValueError: for no scores, NaN among them, or a share out of range.

    Example:
      >>> from jaxrobust.evaluation import detectors
      >>> detectors.threshold_at([0.1, 0.4, 0.2, 0.3], 0.25)
      0.3
    """
    _checks.check_one_number("false_rejection", false_rejection, _SHARE)
    _checks.check_number("scores", scores, Range(-math.inf, rule="without NaN"))
    found = np.sort(np.asarray(scores, np.float64))
    if found.ndim != 1 or not len(found):
        raise ValueError(
            f"`scores` must be at least one number, [N], got shape {found.shape}."
        )
    allowed = int(false_rejection * len(found) + 1e-9)  # .29 * 100 is below 29
    return float(found[len(found) - 1 - allowed])


def stands(
    logits: Logits,
    y: Labels,
    scores: PerExample,
    threshold: float,
    *,
    attacked: bool,
) -> Bool[Array, "B"]:
    """Says for each image whether classifier and detector together do right.

    An attacked image is right if it is classified as `y` or rejected, a clean one if it
    is classified as `y` and not rejected. A score of NaN rejects nothing.

    Args:
      logits: `[B, K]`, without NaN.
      y: `[B]`, integers in [0, K).
      scores: of the detector, `[B]`.
      threshold: above it an image is rejected; infinite to reject none.
      attacked: whether the images are attacked ones.

    Raises:
      ValueError, TypeError: for arrays that are not one row per image, labels out of
        range, or NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust.evaluation import detectors
      >>> logits, y = jnp.array([[2., 1.], [1., 2.], [1., 2.]]), jnp.array([0, 0, 0])
      >>> scores = jnp.array([0.9, 0.9, 0.1])
      >>> detectors.stands(logits, y, scores, 0.5, attacked=True).tolist()
      [True, True, False]
      >>> detectors.stands(logits, y, scores, 0.5, attacked=False).tolist()
      [False, False, False]
    """
    _check_logits("logits", logits)
    _checks.check_labels(y, len(logits))
    _checks.check_classes(y, logits.shape[1])
    _check_scores("scores", scores, len(logits))
    _checks.check_one_number("threshold", threshold, _ANY)
    known = _checks.concrete(logits)
    if known is not None and (nan := int(np.isnan(known).any(1).sum())):
        raise ValueError(
            f"`logits` must be predictions, got NaN in {nan} of {len(known)} rows."
        )
    correct, rejected = logits.argmax(-1) == y, scores > threshold
    return correct | rejected if attacked else correct & ~rejected


def fooling_both(
    logits_fn: LogitsFn, detector: Detector, threshold: float, spread: float = 1.0
) -> Any:
    """Returns the loss of an attack that has to fool classifier and detector at once.

    The smaller of the margin loss and of how far the score is below the threshold:
    positive exactly where the image is misclassified and not rejected, and each step
    works on what is still missing. For the `loss` of `attacks.apgd` with
    `best_loss=True`, which keeps its best point; else what fools the classifier is.

    Args:
      logits_fn: `x -> logits [B, K]`.
      detector: `x -> score [B]`, differentiable (or `attacks.straight_through`).
      threshold: above it an image is rejected.
      spread: a typical difference of scores, by which the detector's part is divided
        and so weighed against logits: the standard deviation of clean scores times that
        of logits' margins is a start.

    Raises:
      ValueError, TypeError: for numbers that are not finite; from the attack, for a
        detector that returns no `[B]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust.evaluation import detectors
      >>> flat, mean = (lambda x: x.reshape(len(x), -1)), (lambda x: x.mean((1, 2, 3)))
      >>> loss = detectors.fooling_both(flat, mean, threshold=0.5)
      >>> x = jnp.array([[0.2, 0.4], [0.2, 1.0]]).reshape(2, 1, 2, 1)
      >>> [round(float(v), 3) for v in loss.fn(x, jnp.array([0, 0]))]
      [0.2, -0.1]

    Reference:
      Bryniarski et al., Evading adversarial example detection defenses with orthogonal
      projected gradient descent, ICLR 2022, arXiv 2106.15023 (its selective variant);
      Carlini and Wagner 2017, arXiv 1705.07263.
    """
    _checks.check_function(logits_fn)
    _checks.check_function(detector, "detector", "scores")
    _checks.check_one_number("threshold", threshold, _FINITE)
    _checks.check_one_number("spread", spread, _SPREAD)

    def fn(x: Images, y: Labels) -> PerExample:
        wrong = losses.margin(losses.comparable(logits_fn(x)), y)
        scores = detector(x)
        _check_scores("detector(x)", scores, len(x))
        return jnp.minimum(wrong, (threshold - scores) / spread)

    return attacks.on_input(fn)


def feature_squeezing(logits_fn: LogitsFn, squeezed: Sequence[LogitsFn]) -> Detector:
    """Returns the detector that asks how far squeezing an image moves its prediction.

    Args:
      logits_fn: `x -> logits [B, K]`.
      squeezed: the same behind one squeezer each, such as `preprocessing.bit_depth`.

    Returns:
      `x -> score [B]`: the largest L1 distance of the probabilities, 0 to 2.

    Reference:
      Xu, Evans, Qi, Feature squeezing, NDSS 2018, arXiv 1704.01155, section V;
      broken in He et al., WOOT 2017, arXiv 1706.04701.
    """
    _checks.check_function(logits_fn)
    if callable(squeezed) or not len(squeezed):
        raise ValueError(
            "`squeezed` must have at least one function to logits, in a list, got "
            f"{squeezed!r}."
        )
    for place, one in enumerate(squeezed):
        _checks.check_function(one, f"squeezed[{place}]")

    def score(x: Images) -> PerExample:
        own, *others = (fn(x) for fn in (logits_fn, *squeezed))
        _check_logits("logits_fn(x)", own)
        for other in others:
            if other.shape != own.shape:
                raise ValueError(
                    "`squeezed` must return logits like those of `logits_fn`, "
                    f"{own.shape}, got {other.shape}."
                )
        own = jax.nn.softmax(own)
        moved = [jnp.abs(jax.nn.softmax(other) - own).sum(-1) for other in others]
        return jnp.stack(moved).max(0)

    return score


def _check_logits(name: str, logits: Any) -> None:
    _checks.check_floating(name, logits, "[B, K]", ", one row per image")


def _check_scores(name: str, scores: Any, batch: int) -> None:
    """Raises unless there is one score per image: [B, 1] would make [B, B] of them."""
    _checks.check_kind(scores, jnp.floating, f"`{name}` must be floating scores")
    if scores.shape != (batch,):
        raise ValueError(
            f"`{name}` must be one score per image, shape ({batch},), got "
            f"{scores.shape}."
        )
