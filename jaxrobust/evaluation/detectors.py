"""Detectors: a network that may reject an image, and attacks on both.

A detector is a function of images to a score `[B]`; what is above a threshold, set on
clean images, is rejected. How-to: docs/how_to/defend_by_preprocessing.md.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool

from jaxrobust import attacks, losses
from jaxrobust.array_types import Images, Labels, Logits, LogitsFn, PerExample

Detector = Callable[[Images], PerExample]


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
    if not 0 <= false_rejection < 1:
        told = f"must be a share in [0, 1), got {false_rejection}"
        raise ValueError(f"`false_rejection` {told}.")
    found = np.sort(np.asarray(scores, np.float64).ravel())
    if not len(found) or np.isnan(found).any():
        raise ValueError("`scores` must be at least one number, and none of them NaN.")
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
    if not spread > 0:
        raise ValueError(f"`spread` must be above 0, got {spread}.")

    def fn(x: Images, y: Labels) -> PerExample:
        wrong = losses.margin(losses.comparable(logits_fn(x)), y)
        return jnp.minimum(wrong, (threshold - detector(x)) / spread)

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
    if not squeezed:
        raise ValueError("`squeezed` must have at least one function to logits.")

    def score(x: Images) -> PerExample:
        own = jax.nn.softmax(logits_fn(x))
        moved = [jnp.abs(jax.nn.softmax(fn(x)) - own).sum(-1) for fn in squeezed]
        return jnp.stack(moved).max(0)

    return score
