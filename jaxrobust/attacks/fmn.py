"""FMN: steps inside a ball whose radius grows and shrinks to the boundary."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, Norm, PerExample, Scalar
from jaxrobust.attacks._descent import DescentToNearest, farthest, to_boundary, width
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, model_keys, watched
from jaxrobust.attacks._nearest import Nearest
from jaxrobust.attacks._objective import Judged, Keys, Problem, judged_gradient
from jaxrobust.attacks._options import TargetOptions, shares

_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
# A row that is right after this share of the steps has its ball grow.
_PATIENCE = 0.2
# Share of the farthest distance that a ball grows from at least.
_LEAST = 1e-5
# Halvings between `x_init` and the image, as in the authors' code.
_HALVINGS = 10


class Carry(NamedTuple):
    """The iterate, its ball, whether a row has been misclassified, and the nearest."""

    x: Images
    radius: PerExample
    hit: jax.Array
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class FMN(DescentToNearest):
    """FMN without its arrays."""

    norms = ("linf", "l2", "l1", "l0")

    alpha: float = 1.0
    alpha_final: float = 0.01
    gamma: float = 0.05
    gamma_final: float = 0.001

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image, or at the boundary on the way from `x_init` to it."""
        x, nearest = self.begin(problem, keys)
        if problem.x_init is not None:
            near = to_boundary(problem, keys, x, _HALVINGS)
            x = choose(nearest.distance == 0, x, near)
        radius = jnp.full(x.shape[:1], jnp.inf, x.dtype)
        if problem.norm == "l0":
            radius = jnp.maximum(threat.distance(x, problem.x, norm="l0"), 1)
        health = Health.first(problem, self.steps, keys, x)
        return Carry(x, radius, jnp.zeros(x.shape[:1], bool), nearest, health)

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Resizes the ball, steps along the gradient, and back into the ball."""
        x, (low, high), wide = carry.x, problem.bounds, width(problem)
        grad, at = judged_gradient(problem, x, model_keys(problem, keys, i))
        carry = carry._replace(
            hit=carry.hit | at.fooled,
            nearest=carry.nearest.or_nearer(problem, x, at.fooled),
        )
        radius = self._radius(problem, i, carry, grad, at)
        length = self.annealed(i, self.alpha, self.alpha_final).astype(x.dtype) * wide
        ahead = threat.steepest_step(x, grad, step_size=length, norm="l2")
        # The ball alone, then the box alone, as in algorithm 1.
        far = 2 * wide * max(1, self.alpha)
        ball = {"eps": radius, "norm": problem.norm, "bounds": (low - far, high + far)}
        inside = jnp.clip(threat.project(ahead, problem.x, **ball), low, high)
        health = watched(carry.health, grad, at.logits, i)
        return carry._replace(x=inside, radius=radius, health=health)

    def _radius(
        self, problem: Problem, i: Count, carry: Carry, grad: Images, at: Judged
    ) -> PerExample:
        """The next radius: smaller where misclassified, else larger.

        Until a row has been misclassified it is the distance at which the linearised
        loss is 0.
        """
        gamma, old = self.annealed(i, self.gamma, self.gamma_final), carry.radius
        gamma, best = gamma.astype(old.dtype), carry.nearest.distance
        less, more = old * (1 - gamma), old * (1 + gamma)
        if problem.norm == "l0":
            less = jnp.minimum(old - 1, jnp.floor(less))
            more = jnp.maximum(old + 1, jnp.floor(more))
        else:
            dual = threat.distance(grad, jnp.zeros_like(grad), norm=_DUAL[problem.norm])
            reach = jnp.abs(at.value).astype(old.dtype) / jnp.maximum(dual, 1e-12)
            length = threat.distance(carry.x, problem.x, norm=problem.norm)
            # A straight boundary, or the box, may keep a row short of it for good.
            grows = carry.hit | (jnp.asarray(i) > self.steps * _PATIENCE)
            least = _LEAST * farthest(problem) * (1 + gamma)
            ahead = length + threat.tamed(reach)
            more = jnp.where(grows, jnp.maximum(more, least), ahead)
        radius = jnp.where(at.fooled, jnp.minimum(less, best), more)
        return jnp.clip(radius, 0, farthest(problem))


@shares(TargetOptions, norm="l2")
def fmn(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    steps: int = 100,
    alpha: Annotated[float, Range(0, 1e3, above=True)] = 1.0,
    gamma: Annotated[float, Range(0, 1)] = 0.05,
    x_init: Images | None = None,
    **options: Unpack[TargetOptions],
) -> Images:
    """Fast minimum-norm attack (Pintor et al. 2021, algorithm 1): L0, L1, L2 and Linf.

    Each step sets the radius of a ball, goes along the gradient of the margin and back
    into ball and box. A radius is 1 - gamma times the one before where the point was
    misclassified (and no larger than the nearest so far), else 1 + gamma times; before
    the first misclassified point it reaches to where the margin, taken as linear, is 0.
    A row without one after a fifth of the steps grows too (ours): where the boundary is
    straight or the box in the way, it would stay short of it for good.
    In L0 it is a whole number of values and changes by one at least. The step's length
    falls with half a cosine to a hundredth of `alpha`, gamma to .001. Returns the
    nearest misclassified point. Uses no randomness.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: 4 * jnp.stack([x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]], axis=1)
    >>> x = jnp.full((1, 1, 1, 1), 0.7)  # class 0 down to a half
    >>> x_adv = attacks.fmn(logits_fn, x, jnp.array([0]), norm="linf")
    >>> round(float(x_adv[0, 0, 0, 0]), 2)
    0.5

    Args:
      steps: steps, at least 0, one gradient each; static. adv-lib has 10 by
        default.
      alpha: length of the first step in L2, in units of the box's width.
      gamma: by how much the first steps change the radius, in [0, 1].
      x_init: misclassified images `[B, H, W, C]` to start from: at the boundary on the
        way to the image, found by 10 halvings of the distance (a model call each); the
        authors halve a weight between the two.
      norm: 'linf', 'l2', 'l1' or 'l0' (the number of values that change).

    Reference:
      Pintor, Roli, Brendel, Biggio: Fast minimum-norm adversarial attacks through
      adaptive norm constraints, NeurIPS 2021, arXiv 2102.12827, algorithm 1.
    """
    method = FMN(
        steps,
        alpha=alpha,
        alpha_final=alpha / 100,
        gamma=gamma,
        gamma_final=min(0.001, gamma),
    )
    given = {"x_init": x_init, "loss": "margin"}
    return iterate(method, logits_fn, x, y, eps, **given, **options)
