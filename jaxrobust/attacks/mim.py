"""Momentum iterative method."""

from typing import Annotated, Unpack

from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import Ascent, Direction, momentum
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._options import BallOptions, PositiveInt, shares


@shares(BallOptions)
def mim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    decay: Annotated[float, Range(0, 10)] = 1.0,
    random_start: bool = False,
    restarts: PositiveInt = 1,
    **options: Unpack[BallOptions],
) -> Images:
    """Momentum iterative method (Dong et al. 2018, algorithm 1).

    The gradient over its mean absolute value per image is added to `decay` times the
    momentum, and the step follows the momentum. A zero gradient adds nothing.

    Args:
      decay: weight of the momentum of the step before, at least 0.

    Reference:
      Dong et al., Boosting adversarial attacks with momentum, CVPR 2018,
      arXiv 1710.06081. It divides by the L1 norm; by the mean the steps are the same
      up to a factor, as in torchattacks.
    """
    direction = Direction(momentum, (decay,))
    method = Ascent(steps, restarts, random_start, direction)
    return iterate(method, logits_fn, x, y, eps, step_size, **options)
