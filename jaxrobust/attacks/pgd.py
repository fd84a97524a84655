"""Projected gradient descent; from the clean image (`bim`); of one step (`fgsm`)."""

from typing import Any, Literal, Unpack

from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import ADAM, Ascent, straight
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._options import BallOptions, PositiveInt, shares

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
    restarts: PositiveInt = 1,
    direction: Literal["steepest", "adam"] = "steepest",
    **options: Unpack[BallOptions],
) -> Images:
    """Projected gradient descent in the eps-ball (Madry et al. 2018, section 2.1).

    Steps along the steepest ascent direction of the norm, each time back into ball
    and box. Returns the last iterate; in L1, where steps are long in few coordinates,
    the best by loss of all iterates and the vertex that the last gradient points to.

    Args:
      direction: 'steepest', or 'adam' for steps of Adam (as Uesato et al. 2018 make
        them, arXiv 1802.05666) with `step_size` for its learning rate: in each value
        about that long, in all norms. In L1 no vertex is tried.

    Reference:
      Madry et al., Towards deep learning models resistant to adversarial attacks,
      ICLR 2018, arXiv 1706.06083.
    """
    method = Ascent(steps, restarts, random_start, **_DIRECTIONS[direction])
    return iterate(method, logits_fn, x, y, eps, step_size, **options)


@shares(BallOptions)
def bim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    restarts: PositiveInt = 1,
    **options: Unpack[BallOptions],
) -> Images:
    """Basic iterative method (Kurakin et al. 2017, section 2.2): `pgd` from `x`.

    Args:
      restarts: they differ for a stochastic model alone.

    Reference:
      Kurakin et al., Adversarial examples in the physical world, ICLR workshop 2017,
      arXiv 1607.02533.
    """
    given = {"random_start": False, "restarts": restarts, "steps": steps, **options}
    return pgd(logits_fn, x, y, eps=eps, step_size=step_size, **given)


@shares(BallOptions)
def fgsm(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar | None = None,
    random_start: bool = False,
    restarts: PositiveInt = 1,
    **options: Unpack[BallOptions],
) -> Images:
    """Fast gradient sign method (Goodfellow et al. 2015, section 4).

    One step along the steepest ascent direction of the norm.

    Args:
      step_size: length of the step; `eps` by default. With a random start Wong et
        al. 2020 (arXiv 2001.03994) use 1.25 eps.

    Reference:
      Goodfellow et al., Explaining and harnessing adversarial examples, ICLR 2015,
      arXiv 1412.6572.
    """
    length = eps if step_size is None else step_size
    method = Ascent(1, restarts, random_start, keep_best=False)
    return iterate(method, logits_fn, x, y, eps, length, **options)
