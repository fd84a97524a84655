"""Auto-PGD, untargeted and targeted: the gradient attacks of AutoAttack."""

from typing import Annotated, Any, Unpack

from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks._apgd import Apgd
from jaxrobust.attacks._apgd import Trace as Trace
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._options import LossOptions, ModelOptions, PositiveInt, shares


@shares(LossOptions)
def apgd(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    steps: int = 100,
    restarts: PositiveInt = 1,
    rho: Annotated[float, Range(0, 1)] = 0.75,
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
      restarts: number of random starts. The result is that of the first one that fools
        the model.
      rho: share of rising steps in a window up to which the step is halved, in [0, 1].
      x_init: start `[B, H, W, C]` of the first restart in place of a random one, moved
        into ball and box.
      large_radius: L1 only: 30 % of the steps at 3 eps, 30 % at 2 eps, the rest at
        eps, each from the best point of the one before.
      best_loss: return the point of the highest loss, fooled or not.
      return_trace: return `(x_adv, Trace)`; with one restart.

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
    given = {"restarts": restarts, "rho": rho, "large_radius": large_radius}
    given |= {"best_loss": best_loss, "trace": return_trace}
    method = _method(options.get("norm"), x_init, steps, **given)
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
    targets: PositiveInt = 9,
    restarts: PositiveInt = 1,
    rho: Annotated[float, Range(0, 1)] = 0.75,
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
      y: true labels `[B]`.
      eps: radius of the ball, of the shapes that `pgd` takes; may be traced.
      steps: number of steps per target and restart, at least 0.
      norm: 'linf', 'l2' or 'l1'.
      targets: number of target classes, at least 1; K - 1 where that is less.
      restarts: random starts per target; the first point found is returned.
      rho: as in `apgd`.
      x_init: start of each target's first run in place of a random one.
      large_radius: L1 only, as in `apgd`.

    Returns:
      Images of shape and dtype of `x`, in ball and box: the last misclassified point of
      the first target that fools the model, else the clean image.

    Reference:
      Croce and Hein, ICML 2020, arXiv 2003.01690, equation 7.
    """
    given = {"restarts": restarts, "rho": rho, "large_radius": large_radius}
    method = _method(options.get("norm"), x_init, steps, targets=targets, **given)
    return iterate(method, logits_fn, x, y, eps, eps, x_init=x_init, **options)


def _method(
    norm: Norm | None, x_init: Images | None, steps: int, **fields: Any
) -> Apgd:
    """Makes the method: it starts at random unless there is a start, and it is one."""
    large, norm = fields["large_radius"], norm or "linf"
    if large and norm != "l1":
        raise ValueError(
            "`large_radius` belongs to the L1 attack: leave it out, or set norm='l1', "
            f"got norm={norm!r}."
        )
    random_start = x_init is None or fields["restarts"] > 1
    return Apgd(steps + 2 * large, random_start=random_start, **fields)
