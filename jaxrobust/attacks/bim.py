"""Basic iterative method: projected gradient descent from the clean image."""

from typing import Unpack

from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._options import BallOptions, shares
from jaxrobust.attacks.pgd import pgd


@shares(BallOptions)
def bim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    restarts: int = 1,
    **options: Unpack[BallOptions],
) -> Images:
    """Basic iterative method (Kurakin et al. 2017, section 2.2): `pgd` from `x`.

    Args:
      logits_fn: as all other arguments, see `pgd`.
      x: images `[B, H, W, C]`.
      y: labels `[B]`.
      eps: radius of the ball.
      step_size: length of a step in the norm.
      steps: number of steps, at least 0.
      restarts: they differ for a stochastic model alone.
      **options: shared by the family.

    Returns:
      Attacked images, shape and dtype of `x`, in ball and box; no gradient flows.

    Reference:
      Kurakin et al., Adversarial examples in the physical world, ICLR workshop 2017,
      arXiv 1607.02533.
    """
    given = {"random_start": False, "restarts": restarts, "steps": steps, **options}
    return pgd(logits_fn, x, y, eps=eps, step_size=step_size, **given)
