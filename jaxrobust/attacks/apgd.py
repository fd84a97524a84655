"""Auto-PGD, untargeted and targeted: the gradient attacks of AutoAttack."""

from typing import Any, Unpack

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks import _checks
from jaxrobust.attacks._apgd import Apgd
from jaxrobust.attacks._apgd import Trace as Trace
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._objective import Loss, Problem
from jaxrobust.attacks._options import ModelOptions, shares


@shares(ModelOptions)
def apgd(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar,
    steps: int = 100,
    norm: Norm = "linf",
    loss: Loss = "ce",
    restarts: int = 1,
    rho: float = 0.75,
    x_init: Images | None = None,
    large_radius: bool = False,
    best_loss: bool = False,
    return_trace: bool = False,
    targeted: bool = False,
    **options: Unpack[ModelOptions],
) -> Any:
    """Auto-PGD (Croce and Hein 2020, section 3), by the rules of AutoAttack.

    Ascent with momentum .75 and a step that starts at 2 eps. At checkpoints it is
    halved, and the search goes back to its best point, where the loss rose after at
    most `rho` of the window's steps or the best loss did not change. In L1 (Croce and
    Hein 2021) a step moves the coordinates of the largest gradients, and checkpoints
    decide how many these are. There is no step size to choose.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: labels `[B]`; the target classes where `targeted`.
      key: one key (row i uses fold_in(key, i)) or one per example; needed unless
        `x_init` is the only start and the model is not stochastic.
      eps: radius of the ball in units of the images, of the shapes that `pgd` takes;
        may be traced.
      steps: number of steps, at least 0.
      norm: 'linf', 'l2' or 'l1'.
      loss: 'ce', 'margin', 'dlr' (with two classes, where it is undefined, the margin),
        a function (logits, y) -> `[B]`, or `attacks.on_input(fn)`; ascended.
      restarts: number of random starts. The result is that of the first one that fools
        the model.
      rho: share of rising steps in a window up to which the step is halved, in [0, 1].
      x_init: start `[B, H, W, C]` of the first restart in place of a random one, moved
        into ball and box.
      large_radius: L1 only: 30 % of the steps at 3 eps, 30 % at 2 eps, the rest at
        eps, each from the best point of the one before.
      best_loss: return the point of the highest loss, fooled or not.
      return_trace: return `(x_adv, Trace)`; with one restart.
      targeted: descend the loss towards `y` instead.
      **options: shared by all attacks.

    Returns:
      Images of shape and dtype of `x`, in ball and box: per example the last point
      of the run that the model misclassifies, and the clean image where there is none
      or the clean image is misclassified already. No gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

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
    problem = Problem(
        logits_fn,
        x,
        y,
        eps,
        eps,
        norm=norm,
        loss=loss,
        targeted=targeted,
        fall_back=True,
        x_init=x_init,
        **options,
    )
    method = _method(
        problem,
        steps,
        restarts,
        rho,
        large_radius,
        best_loss=best_loss,
        trace=return_trace,
    )
    return iterate(problem, method, key, None)


@shares(ModelOptions)
def apgd_targeted(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
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
      key: one key (row i uses fold_in(key, i)) or one per example, as in `apgd`.
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

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Croce and Hein, ICML 2020, arXiv 2003.01690, equation 7.
    """
    _checks.check_count("targets", targets, 1)
    problem = Problem(
        logits_fn,
        x,
        y,
        eps,
        eps,
        norm=norm,
        x_init=x_init,
        **options,
    )
    method = _method(problem, steps, restarts, rho, large_radius, targets=targets)
    return iterate(problem, method, key, None)


def _method(
    problem: Problem,
    steps: int,
    restarts: int,
    rho: float,
    large_radius: bool,
    **options: Any,
) -> Apgd:
    """Checks what only APGD has and makes the method."""
    _checks.check_count("steps", steps, 0)
    _checks.check_count("restarts", restarts, 1)
    _checks.check_ranges(rho=rho)
    if large_radius and problem.norm != "l1":
        threat.check_norm(problem.norm)
        raise ValueError(
            "`large_radius` belongs to the L1 attack: leave it out, or set norm='l1', "
            f"got norm={problem.norm!r}."
        )
    if problem.x_init is not None:
        _checks.check_images(problem.x)
        _checks.check_start(problem)
    return Apgd(
        steps=int(steps) + (2 if large_radius else 0),
        restarts=restarts,
        random_start=problem.x_init is None or restarts > 1,
        iterations=int(steps),
        rho=float(rho),
        large_radius=large_radius,
        **options,
    )
