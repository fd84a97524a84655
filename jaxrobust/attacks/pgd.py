"""Projected gradient descent."""

from typing import Any, Literal, Unpack

from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import ADAM, Ascent, straight
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._options import BallOptions, shares

_DIRECTIONS: dict[str, dict[str, Any]] = {
    "steepest": {},
    "adam": {"direction": ADAM, "rule": straight},
}


@shares(BallOptions)
def pgd(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    random_start: bool = True,
    restarts: int = 1,
    direction: Literal["steepest", "adam"] = "steepest",
    **options: Unpack[BallOptions],
) -> Images:
    """Projected gradient descent in the eps-ball (Madry et al. 2018, section 2.1).

    Steps along the steepest ascent direction of the norm, each time back into ball
    and box. Returns the last iterate; in L1, where steps are long in few coordinates,
    the best by loss of all iterates and the vertex that the last gradient points to.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
      x: images `[B, H, W, C]`, floating, inside `bounds`. Of half precision the attack
        computes in float32, and rounds towards `x` what it asks the model and returns.
      y: labels `[B]`; the target classes where `targeted`.
      eps: radius of the ball in units of the images: a number, one per example `[B]`,
        or in Linf one per channel `[1, 1, 1, C]` or value `[B, H, W, C]` (a mask, eps /
        std), whatever broadcasts so. One that is larger than the box is the box. May
        be traced.
      step_size: length of a step in the norm, finite, of the same shapes as `eps`; may
        be traced.
      steps: number of steps, at least 0.
      random_start: start from `threat.sample`; restart r > 0 uses fold_in(key, r).
      restarts: keeps, per example, a misclassified point over one that is not, then
        the higher loss.
      direction: 'steepest', or 'adam' for steps of Adam (as Uesato et al. 2018 make
        them, arXiv 1802.05666) with `step_size` for its learning rate: in each value
        about that long, in all norms. In L1 no vertex is tried.
      **options: shared by the family.

    Returns:
      Attacked images, shape and dtype of `x`, in ball and box; no gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Madry et al., Towards deep learning models resistant to adversarial attacks,
      ICLR 2018, arXiv 1706.06083.
    """
    # In L1 the last point may be worse than one before it.
    keep_best = options.get("norm") == "l1"
    method = Ascent(
        steps, restarts, random_start, keep_best=keep_best, **_DIRECTIONS[direction]
    )
    return iterate(method, logits_fn, x, y, eps, step_size, **options)
