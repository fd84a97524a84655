"""Projected gradient descent, and the basic iterative method without its start."""

from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._loop import Ascent
from jaxrobust.attacks._objective import Loss, Problem


def pgd(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    norm: Norm = "linf",
    random_start: bool = True,
    restarts: int = 1,
    loss: Loss = "ce",
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    stochastic: bool = False,
    eot_samples: int = 1,
    quantize: bool = False,
    unroll: int | bool | None = None,
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
      key: one key (row i uses fold_in(key, i)) or one per example; needed with a
        random start or a stochastic model.
      eps: radius of the ball in units of the images: a number, one per example `[B]`,
        or in Linf one per channel `[1, 1, 1, C]` or value `[B, H, W, C]` (a mask, eps /
        std), whatever broadcasts so. One that is larger than the box is the box. May
        be traced.
      step_size: length of a step in the norm, finite, of the same shapes as `eps`; may
        be traced.
      steps: number of steps, at least 0.
      norm: 'linf', 'l2' or 'l1'.
      random_start: start from `threat.sample`; restart r > 0 uses fold_in(key, r).
      restarts: keeps, per example, a misclassified point over one that is not, then
        the higher loss.
      loss: 'ce', 'margin', 'dlr', a function (logits, y) -> `[B]`, or
        `attacks.on_input(fn)` with fn(x, y) -> `[B]`; ascended.
      targeted: descend the loss towards `y` instead.
      bounds: lowest and highest value of an image, finite.
      stochastic: the model draws randomness from the keys it is given.
      eot_samples: gradients averaged per step over this many draws.
      quantize: keep every iterate on the 8-bit levels of `bounds`.
      unroll: how the loop is written out; None chooses.

    Returns:
      Attacked images, shape and dtype of `x`, in ball and box; no gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Madry et al., Towards deep learning models resistant to adversarial attacks,
      ICLR 2018, arXiv 1706.06083.
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
    ascent = Ascent(steps, restarts, random_start, keep_best=norm == "l1")
    return iterate(problem, ascent, key, unroll)
