"""Auto-PGD, untargeted and targeted: the gradient attacks of AutoAttack."""

from typing import Any, Unpack

from jaxrobust.array_types import Images, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks._apgd import Apgd
from jaxrobust.attacks._apgd import Trace as Trace
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._options import LossOptions, ModelOptions, shares


@shares(LossOptions)
def apgd(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
    x_init: Images | None = None,
    large_radius: bool = False,
    best_loss: bool = False,
    return_trace: bool = False,
    **options: Unpack[LossOptions],
) -> Any:
    """Auto-PGD (Croce and Hein 2020, section 3), by the rules of AutoAttack.

    Ascent with momentum .75 and a step that starts at 2 eps. At checkpoints it is
    halved, and the search goes back to its best point, where the loss rose after at
    most `rho` of the window's steps or the best loss did not change. In L1 (Croce and
    Hein 2021) a step moves the coordinates of the largest gradients, and checkpoints
    decide how many these are. There is no step size to choose. With two classes, where
    the loss 'dlr' is undefined, it is the margin.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: labels `[B]`; the target classes where `targeted`.
      eps: radius of the ball in units of the images, of the shapes that `pgd` takes;
        may be traced.
      steps: number of steps, at least 0.
      restarts: number of random starts. The result is that of the first one that fools
        the model.
      rho: share of rising steps in a window up to which the step is halved, in [0, 1].
      x_init: start `[B, H, W, C]` of the first restart in place of a random one, moved
        into ball and box.
      large_radius: L1 only: 30 % of the steps at 3 eps, 30 % at 2 eps, the rest at
        eps, each from the best point of the one before.
      best_loss: return the point of the highest loss, fooled or not.
      return_trace: return `(x_adv, Trace)`; with one restart.
      **options: shared by attacks of a ball.

    Returns:
      Images of shape and dtype of `x`, in ball and box: per example the last point
      of the run that the model misclassifies, and the clean image where there is none
      or the clean image is misclassified already. No gradient flows.

    Reference:
      Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of
      diverse parameter-free attacks, ICML 2020, arXiv 2003.01690. Croce and Hein, Mind
      the box: l1-APGD for sparse adversarial attacks on image classifiers, ICML 2021,
      arXiv 2103.01208.
    """
    if return_trace and restarts != 1:
        raise ValueError(
            f"`return_trace` shows one run, so `restarts` must be 1, got {restarts}; "
            "call once per key."
        )
    method = _method(
        steps,
        restarts,
        options.get("norm", "linf"),
        x_init,
        rho=rho,
        large_radius=large_radius,
        best_loss=best_loss,
        trace=return_trace,
    )
    fields = {"fall_back": True, "x_init": x_init, **options}
    return iterate(method, logits_fn, x, y, eps, eps, **fields)


@shares(ModelOptions)
def apgd_targeted(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    steps: int = 100,
    norm: Norm = "linf",
    targets: int = 9,
    restarts: int = 1,
    rho: float = 0.75,
    x_init: Images | None = None,
    large_radius: bool = False,
    **options: Unpack[ModelOptions],
) -> Images:
    """Auto-PGD on the targeted DLR loss, once per target class (AutoAttack's apgd-t).

    Targets are the classes ranked 2nd to (targets + 1)-th on the clean image; any
    misclassification counts as success. A model with fewer other classes has fewer
    targets; with fewer than four classes, where the targeted DLR is undefined, the
    loss is the difference of the two logits, z_target - z_y.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: true labels `[B]`.
      eps: radius of the ball in units of the images, of the shapes that `pgd` takes;
        may be traced.
      steps: number of steps per target and restart, at least 0.
      norm: 'linf', 'l2' or 'l1'.
      targets: number of target classes, at least 1; K - 1 where that is less.
      restarts: random starts per target; the first point found is returned.
      rho: as in `apgd`.
      x_init: start of each target's first run in place of a random one.
      large_radius: L1 only, as in `apgd`.
      **options: shared by all attacks.

    Returns:
      Images of shape and dtype of `x`, in ball and box: the last misclassified point of
      the first target that fools the model, else the clean image.

    Reference:
      Croce and Hein, ICML 2020, arXiv 2003.01690, equation 7.
    """
    method = _method(
        steps,
        restarts,
        norm,
        x_init,
        rho=rho,
        large_radius=large_radius,
        targets=targets,
    )
    fields = {"norm": norm, "x_init": x_init, **options}
    return iterate(method, logits_fn, x, y, eps, eps, **fields)


def _method(
    steps: int, restarts: int, norm: Norm, x_init: Images | None, **fields: Any
) -> Apgd:
    """Makes the method: it starts at random unless there is a start, and it is one."""
    if fields["large_radius"] and norm != "l1":
        raise ValueError(
            "`large_radius` belongs to the L1 attack: leave it out, or set norm='l1', "
            f"got norm={norm!r}."
        )
    phases = 3 if fields["large_radius"] else 1
    return Apgd(
        steps=steps + phases - 1,
        restarts=restarts,
        random_start=x_init is None or restarts > 1,
        iterations=steps,
        **fields,
    )
