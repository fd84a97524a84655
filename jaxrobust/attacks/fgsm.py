"""Fast gradient sign method: one step of the full radius."""

from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._loop import Ascent
from jaxrobust.attacks._objective import Loss, Problem


def fgsm(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar,
    step_size: Scalar | None = None,
    norm: Norm = "linf",
    random_start: bool = False,
    restarts: int = 1,
    loss: Loss = "ce",
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    stochastic: bool = False,
    eot_samples: int = 1,
    quantize: bool = False,
) -> Images:
    """Fast gradient sign method (Goodfellow et al. 2015, section 4).

    One step along the steepest ascent direction of the norm.

    Args:
      logits_fn: as all other arguments, see `pgd`.
      x: images `[B, H, W, C]`.
      y: labels `[B]`.
      key: needed with a random start or a stochastic model.
      eps: radius of the ball, of the shapes that `pgd` takes.
      step_size: length of the step; `eps` by default. With a random start Wong et
        al. 2020 (arXiv 2001.03994) use 1.25 eps.
      norm: 'linf', 'l2' or 'l1'.
      random_start: start from `threat.sample` instead of `x`.
      restarts: number of starts, of which the per-example worst is kept.
      loss: what is ascended.
      targeted: descend towards `y`.
      bounds: lowest and highest value of an image.
      stochastic: the model draws randomness from keys.
      eot_samples: gradients averaged.
      quantize: keep to the 8-bit levels of `bounds`.

    Returns:
      Attacked images, shape and dtype of `x`, in ball and box; no gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Goodfellow et al., Explaining and harnessing adversarial examples, ICLR 2015,
      arXiv 1412.6572.
    """
    problem = Problem(
        logits_fn,
        x,
        y,
        eps,
        eps if step_size is None else step_size,
        norm=norm,
        loss=loss,
        targeted=targeted,
        bounds=bounds,
        stochastic=stochastic,
        eot_samples=eot_samples,
        quantize=quantize,
    )
    return iterate(problem, Ascent(1, restarts, random_start), key, None)
