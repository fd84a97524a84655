"""SparseFool: few values, by planes at the points where DeepFool ends."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._fab_logits import differences_to
from jaxrobust.attacks._fab_projections import displacement
from jaxrobust.attacks._method import Count, Health, choose, model_keys, watched
from jaxrobust.attacks._nearest import Walk
from jaxrobust.attacks._objective import Keys, Problem, succeeds
from jaxrobust.attacks._options import ModelOptions, PositiveInt, shares
from jaxrobust.attacks.deepfool import past_nearest


class Carry(NamedTuple):
    """State between two looks, each row at its own place in the algorithm."""

    x: Images  # the result so far
    point: Images  # to be looked at
    walked: Int[Array, " B"]  # steps of DeepFool that led there from `x`
    at_plane: Bool[Array, " B"]  # the point is behind the boundary: its plane is wanted
    target: Labels  # the class of that
    arrived: Bool[Array, " B"]
    health: Health | None


@dataclasses.dataclass(frozen=True)
class SparseFool(Walk):
    """SparseFool without its arrays; a step is one look at all classes' gradients."""

    norms = ("l0",)

    walk: int = 50
    reach: float = 3.0
    overshoot: float = 0.02

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image."""
        x, y = problem.x, problem.y
        none = jnp.zeros(x.shape[:1], jnp.int32)
        health = Health.first(problem, self.steps, keys, x)
        return Carry(x, x, none, none > 0, y, none > 0, health)

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """A step of DeepFool, the far point that it leads to, or the sparse one."""
        x, point = problem.x, carry.point
        row_keys = model_keys(problem, keys, i)
        euclidean = dataclasses.replace(problem, norm="l2")
        ahead, at = past_nearest(euclidean, point, row_keys, self.overshoot)
        fooled = succeeds(problem, at.logits)
        fresh = (carry.walked == 0) & ~carry.at_plane
        arrived = carry.arrived | (fresh & fooled)
        # The class on the other side, or where that is not known the nearest.
        other = jnp.argmax(at.logits, axis=1).astype(at.other.dtype)
        right = jnp.where(carry.at_plane, carry.target, at.other)
        target = jnp.where(fooled, other, right)
        plane = differences_to(problem, point, target, row_keys)
        solved = carry.at_plane & ~arrived
        result = choose(solved, self._sparse(problem, point, plane.gradient), carry.x)
        behind = ~carry.at_plane & (fooled | (carry.walked >= self.walk))
        far = x + self.reach * (point - x)
        return Carry(
            x=result,
            point=choose(carry.at_plane, result, choose(behind, far, ahead)),
            walked=jnp.where(carry.at_plane, 0, carry.walked + 1),
            at_plane=behind,
            target=target,
            arrived=arrived,
            health=watched(carry.health, at.gradient, at.logits, i, carry.arrived),
        )

    def _sparse(self, problem: Problem, point: Images, normal: Images) -> Images:
        """The plane through a point, from the image by as few values as reach it."""
        x, bounds = problem.x, problem.bounds
        rows, w, there = (v.reshape(len(x), -1) for v in (x, normal, point))
        residual = jnp.sum(w * (rows - there), axis=1)
        way = displacement(rows, w, residual, norm="l1", bounds=bounds)
        return jnp.clip(x + (1 + self.overshoot) * way.reshape(x.shape), *bounds)

    def done(self, carry: Carry) -> Bool[Array, " B"] | None:
        """Rows that are misclassified."""
        return carry.arrived


@shares(ModelOptions, norm="l0")
def sparsefool(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    steps: int = 200,
    walk: PositiveInt = 50,
    reach: Annotated[float, Range(1, 1e6)] = 3.0,
    overshoot: Annotated[float, Range(0, 100)] = 0.02,
    **options: Unpack[ModelOptions],
) -> Images:
    """SparseFool (Modas et al. 2019, algorithms 1 and 2): few values of the image.

    In turns: DeepFool from the result so far to a point behind the boundary; `reach`
    times as far from the image the boundary is taken for the plane of its gradient; and
    the image itself goes to that plane by the values that weigh most, one after the
    other as far as the box lets them, which is the shortest way in L1. A row stops once
    it is misclassified. Uses no randomness.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> weights = jnp.array([1.0, -2.0, 3.0, 1.0])
    >>> logits_fn = lambda x: jnp.stack([x @ weights, jnp.full(len(x), 0.3)], axis=1)
    >>> x, y = jnp.full((1, 4), 0.5), jnp.array([0])  # 1.2 above, the third is half
    >>> x_adv = attacks.sparsefool(logits_fn, x, y, reach=1.0)
    >>> (x_adv != x).tolist()
    [[False, False, True, False]]

    Args:
      steps: looks at the image, a gradient per class and one more each, at least 0;
        static. A turn takes the steps of DeepFool and two.
      walk: steps of one DeepFool at most.
      reach: lambda of the paper, at least 1: a larger one is quicker and less sparse.
      overshoot: share of a way that is added to it.
      norm: 'l0'; the attack has no other.

    Reference:
      Modas, Moosavi-Dezfooli, Frossard: SparseFool: a few pixels make a big difference,
      CVPR 2019, arXiv 1811.02248, algorithms 1 and 2.
    """
    method = SparseFool(steps, walk=walk, reach=reach, overshoot=overshoot)
    return iterate(method, logits_fn, x, y, eps, **options)
