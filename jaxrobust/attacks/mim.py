"""Momentum iterative method."""

from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._loop import Ascent
from jaxrobust.attacks._objective import Loss, Problem


def mim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    decay: float = 1.0,
    norm: Norm = "linf",
    random_start: bool = False,
    restarts: int = 1,
    loss: Loss = "ce",
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    stochastic: bool = False,
    eot_samples: int = 1,
    quantize: bool = False,
    unroll: int | bool | None = None,
) -> Images:
    """Momentum iterative method (Dong et al. 2018, algorithm 1).

    The gradient over its mean absolute value per image is added to `decay` times the
    momentum, and the step follows the momentum. A zero gradient adds nothing.

    Args:
      logits_fn: as all other arguments, see `pgd`.
      x: images `[B, H, W, C]`.
      y: labels `[B]`.
      key: needed with a random start or a stochastic model.
      eps: radius of the ball, of the shapes that `pgd` takes.
      step_size: length of a step in the norm.
      steps: number of steps, at least 0.
      decay: weight of the momentum of the step before, at least 0.
      norm: 'linf', 'l2' or 'l1'.
      random_start: start from `threat.sample` instead of `x`.
      restarts: number of starts, of which the per-example worst is kept.
      loss: what is ascended.
      targeted: descend towards `y`.
      bounds: lowest and highest value of an image.
      stochastic: the model draws randomness from keys.
      eot_samples: gradients averaged per step.
      quantize: keep every iterate on the 8-bit levels of `bounds`.
      unroll: how the loop is written out; None chooses.

    Returns:
      Attacked images, shape and dtype of `x`, in ball and box; no gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Dong et al., Boosting adversarial attacks with momentum, CVPR 2018,
      arXiv 1710.06081. It divides by the L1 norm; by the mean the steps are the same
      up to a factor, as in torchattacks.
    """
    problem = Problem(
        logits_fn,
        x,
        y,
        eps,
        step_size,
        norm=norm,
        loss=loss,
        targeted=targeted,
        bounds=bounds,
        stochastic=stochastic,
        eot_samples=eot_samples,
        quantize=quantize,
    )
    ascent = Ascent(steps, restarts, random_start, decay, keep_best=norm == "l1")
    return iterate(problem, ascent, key, unroll)
