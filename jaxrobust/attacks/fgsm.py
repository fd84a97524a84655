"""Fast gradient sign method: one step of the full radius."""

from typing import Unpack

from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import Ascent
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._options import BallOptions, shares


@shares(BallOptions)
def fgsm(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar | None = None,
    random_start: bool = False,
    restarts: int = 1,
    **options: Unpack[BallOptions],
) -> Images:
    """Fast gradient sign method (Goodfellow et al. 2015, section 4).

    One step along the steepest ascent direction of the norm.

    Args:
      logits_fn: as all other arguments, see `pgd`.
      x: images `[B, H, W, C]`.
      y: labels `[B]`.
      eps: radius of the ball, of the shapes that `pgd` takes.
      step_size: length of the step; `eps` by default. With a random start Wong et
        al. 2020 (arXiv 2001.03994) use 1.25 eps.
      random_start: start from `threat.sample` instead of `x`.
      restarts: number of starts, of which the per-example worst is kept.
      **options: shared by the family.

    Returns:
      Attacked images, shape and dtype of `x`, in ball and box; no gradient flows.

    Reference:
      Goodfellow et al., Explaining and harnessing adversarial examples, ICLR 2015,
      arXiv 1412.6572.
    """
    length = eps if step_size is None else step_size
    method = Ascent(1, restarts, random_start)
    return iterate(method, logits_fn, x, y, eps, length, **options)
