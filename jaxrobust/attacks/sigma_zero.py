"""Sigma-zero: few values change, by descent of a smooth count of them."""

import dataclasses
from typing import Annotated, Any, NamedTuple, Unpack

import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._ascent import ADAM
from jaxrobust.attacks._descent import DescentToNearest, width
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, like, model_keys, watched
from jaxrobust.attacks._nearest import Nearest
from jaxrobust.attacks._objective import Keys, Problem, judged_gradient
from jaxrobust.attacks._options import TargetOptions, shares

# Shares of the first rate: the last one is a tenth of it.
_LAST_RATE = 0.1


class Carry(NamedTuple):
    """The iterate, Adam's state, the threshold below which changes are dropped."""

    x: Images
    adam: Any
    threshold: PerExample
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class SigmaZero(DescentToNearest):
    """Sigma-zero without its arrays; lengths are in units of the box's width."""

    norms = ("l0",)

    lr: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    threshold_factor: float = 0.01

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image, or at `x_init`."""
        x, nearest = self.begin(problem, keys)
        threshold = jnp.full(x.shape[:1], self.threshold, x.dtype)
        health = Health.first(problem, self.steps, keys, x)
        return Carry(x, ADAM.init(x), threshold, nearest, health)

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Descends hinge and count, and drops what is below the threshold."""
        x, wide = carry.x, width(problem)
        grad, at = judged_gradient(problem, x, model_keys(problem, keys, i))
        lacks = at.value <= 0  # the hinge max(-margin, 0) counts
        grad_all = self._pull(problem, x) - jnp.where(
            like(lacks, x), threat.tamed(grad), 0
        )
        largest = threat.distance(grad_all, jnp.zeros_like(x), norm="linf")
        grad_all = threat.safe_divide(grad_all, like(largest, x))
        direction, adam = ADAM.update(grad_all, carry.adam)
        rate = self._rate(jnp.maximum(jnp.asarray(i) - 1, 0)).astype(x.dtype)
        ahead = jnp.clip(x - rate * wide * direction, *problem.bounds)
        drift = self.threshold_factor * self._rate(i).astype(x.dtype)
        threshold = carry.threshold + jnp.where(at.fooled, drift, -drift)
        threshold = jnp.clip(threshold, 0, 1)
        large = jnp.abs(ahead - problem.x) >= like(threshold * wide, x)
        return Carry(
            jnp.where(large, ahead, problem.x),
            adam,
            threshold,
            carry.nearest.or_nearer(problem, x, at.fooled),
            watched(carry.health, grad, at.logits, i),
        )

    def done(self, carry: Carry) -> Any:
        """Rows that change one value at most: no mistake is nearer."""
        return carry.nearest.distance <= 1

    def _rate(self, i: Count) -> Any:
        return self.annealed(i, self.lr, _LAST_RATE * self.lr)

    def _pull(self, problem: Problem, x: Images) -> Images:
        """The gradient of the count, the mean of d^2 / (d^2 + sigma)."""
        delta = (x - problem.x) / width(problem)
        size = x[0].size * width(problem)
        return 2 * delta * self.sigma / (delta**2 + self.sigma) ** 2 / size


@shares(TargetOptions, norm="l0")
def sigma_zero(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    steps: int = 1000,
    lr: Annotated[float, Range(0, 1e6)] = 1.0,
    sigma: Annotated[float, Range(0, 1e6, above=True)] = 1e-3,
    threshold: Annotated[float, Range(0, 1)] = 0.3,
    threshold_factor: Annotated[float, Range(0, 1)] = 0.01,
    x_init: Images | None = None,
    **options: Unpack[TargetOptions],
) -> Images:
    """Sigma-zero (Cinà et al. 2024, algorithm 1): few values change.

    Adam descends max(-m, 0) + mean(d^2 / (d^2 + sigma)), where m is the margin by which
    the point is misclassified and d the perturbation: the second term is nearly the
    share of values that change. Gradients are over their largest value; after each step
    values that changed by less than a threshold are put back. The threshold grows by
    `threshold_factor` times the rate where the point was misclassified, else falls by
    it; the rate falls with half a cosine to a tenth. Returns the misclassified point
    that changes fewest values. Lengths are in units of the box's width. Uses no
    randomness. Other than in the authors' code there may be targets.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> weights = jnp.array([1.0, 2.0, 9.0, 1.0])  # the third value is enough
    >>> logits_fn = lambda x: jnp.stack([x @ weights, jnp.full(len(x), 5.0)], axis=1)
    >>> x_adv = attacks.sigma_zero(logits_fn, jnp.ones((1, 4)), jnp.array([0]))
    >>> (x_adv != 1).tolist()
    [[False, False, True, False]]

    Args:
      steps: steps, at least 0, one gradient each; static.
      lr: Adam's first rate, in units of the box's width.
      sigma: how smooth the count is, above 0.
      threshold: changes of less are dropped at first, in [0, 1].
      threshold_factor: by what share of the rate the threshold moves.
      x_init: images `[B, H, W, C]` to start at.
      norm: 'l0', the number of values that change; the attack has no other.

    Reference:
      Cinà, Villani, Pintor, Schönherr, Biggio, Pelillo: sigma-zero: gradient-based
      optimization of l0-norm adversarial examples, ICLR 2025, arXiv 2402.01879,
      algorithm 1.
    """
    method = SigmaZero(
        steps,
        lr=lr,
        sigma=sigma,
        threshold=threshold,
        threshold_factor=threshold_factor,
    )
    given = {"x_init": x_init, "loss": "margin"}
    return iterate(method, logits_fn, x, y, eps, **given, **options)
