"""PGD-0: gradient ascent, each time back to the points that change few pixels."""

import dataclasses
import math
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxrobust import threat
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import Ascent, Carry, Direction, Rule, straight
from jaxrobust.attacks._checks import check_images
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, model_keys
from jaxrobust.attacks._objective import Judged, Keys, Problem, judged_gradient
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares

# Of the default step, per value of an image: what the authors take on MNIST (30,000 /
# 255 in L1) and on CIFAR-10 (120,000 / 255).
_SHARE = 0.15


def over_sum() -> optax.GradientTransformation:
    """Divides gradients by the sum of their absolute values; zero stays zero."""
    return optax.stateless(_over_sum)


def _over_sum(grad: Any, params: Any) -> Any:
    grad = threat.tamed(grad)
    grad = threat.safe_divide(grad, jnp.max(jnp.abs(grad)))
    return threat.safe_divide(grad, jnp.sum(jnp.abs(grad)))


_OVER_SUM = Direction(over_sum)


@dataclasses.dataclass(frozen=True)
class PGD0(Ascent):
    """PGD-0 without its arrays: the projection does the work."""

    norms = threat.SPARSE
    settles = True

    direction: Direction = _OVER_SUM
    rule: Rule = straight
    keep_best: bool | None = True

    def look(
        self, problem: Problem, keys: Keys, i: Count, x: Images
    ) -> tuple[Images, Judged]:
        """The gradient, and whether the point is misclassified."""
        return judged_gradient(problem, x, model_keys(problem, keys, i))

    def done(self, carry: Carry) -> jax.Array:
        """Rows that have been misclassified."""
        assert carry.kept is not None
        return carry.kept.fooled


@shares(LossOptions, norm="l0_pixels")
def pgd_0(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    steps: int = 100,
    step_size: Scalar | None = None,
    random_start: bool = True,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """PGD-0 (Croce & Hein 2019, section 4.1): at most `eps` pixels change.

    Each step adds the gradient over its sum of absolute values, times `step_size`, and
    projects onto the points of the box that differ in at most `eps` pixels, exactly:
    those pixels are left whose change, cut to the box, brings it nearest. The first
    misclassified point is kept, else the one of the highest loss. A random start draws
    `eps` pixels and their values; the authors draw all and project.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> weights = jnp.array([1.0, 2.0, 9.0, 1.0])  # the third value is enough
    >>> logits_fn = lambda x: jnp.stack([x @ weights, jnp.full(len(x), 5.0)], axis=1)
    >>> x, y = jnp.ones((1, 4)), jnp.array([0])
    >>> x_adv = attacks.pgd_0(logits_fn, x, y, eps=1, random_start=False)
    >>> x_adv.tolist()
    [[1.0, 1.0, 0.0, 1.0]]

    Args:
      eps: how many pixels (values in 'l0') may change, rounded down: a number, or one
        per example `[B]`; may be traced.
      steps: steps, at least 0, one gradient each; static.
      step_size: length of a step in L1, finite; may be traced. None: .15 of the box's
        width per value of an image, which is the authors' on MNIST and on CIFAR-10.
      random_start: start from `threat.sample` instead of `x`.
      restarts: keeps, per example, a misclassified point over one that is not, then
        the higher loss; the authors make 5 (and 10 in their README).
      norm: 'l0_pixels', or 'l0' to count values instead of pixels.

    Reference:
      Croce, Hein: Sparse and imperceivable adversarial attacks, ICCV 2019, arXiv
      1909.05040, section 4.1.
    """
    check_images(x)
    if step_size is None:
        low, high = options.get("bounds", (0.0, 1.0))
        step_size = _SHARE * math.prod(x.shape[1:]) * (high - low)
    method = PGD0(steps, restarts, random_start)
    return iterate(method, logits_fn, x, y, eps, step_size, **options)
