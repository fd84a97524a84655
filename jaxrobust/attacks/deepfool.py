"""DeepFool: from linearised boundary to linearised boundary."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, Norm, PerExample, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._fab_logits import Difference, differences, off_rounding
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys, watched
from jaxrobust.attacks._nearest import Walk
from jaxrobust.attacks._objective import Keys, Problem, succeeds
from jaxrobust.attacks._options import ModelOptions, shares


class Carry(NamedTuple):
    """The iterate: the image and all steps so far, each with its overshoot."""

    x: Images
    arrived: Bool[Array, " B"]  # misclassified: it stays
    health: Health | None


@dataclasses.dataclass(frozen=True)
class DeepFool(Walk):
    """DeepFool without its arrays."""

    overshoot: float = 0.02

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image."""
        x = problem.x
        nowhere = jnp.zeros(x.shape[:1], bool)
        return Carry(x, nowhere, Health.first(problem, self.steps, keys, x))

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Goes past the nearest linearised boundary; stays where misclassified."""
        x = carry.x
        row_keys = model_keys(problem, keys, i)
        ahead, at = past_nearest(problem, x, row_keys, self.overshoot)
        health = watched(carry.health, at.gradient, at.logits, i)
        arrived = succeeds(problem, at.logits)
        return Carry(choose(arrived, x, ahead), arrived, health)

    def done(self, carry: Carry) -> Bool[Array, " B"] | None:
        """Rows that are misclassified."""
        return carry.arrived


def past_nearest(
    problem: Problem, x: Images, keys: Keys, overshoot: float
) -> tuple[Images, Difference]:
    """Goes past the nearest linearised boundary, in the box; also tells of it."""
    at = differences(problem, x, keys)
    # Where the logits of a black image are all 0, its own values tell no precision.
    farthest = jnp.full_like(x, max(abs(v) for v in problem.bounds))
    df = off_rounding(problem, at, farthest, keys)
    way = _to_plane(at.gradient, jnp.abs(df), problem.norm)
    return jnp.clip(x + (1 + overshoot) * way, *problem.bounds), at


def _to_plane(w: Images, amount: PerExample, norm: Norm) -> Images:
    """The shortest way along which w . x grows by `amount`; none where w is 0."""
    axes = tuple(range(1, w.ndim))
    # Over the largest weight, so that no square is too small or too large.
    largest = jnp.max(jnp.abs(w), axis=axes)
    w = threat.safe_divide(w, like(largest, w))
    way = w if norm == "l2" else jnp.sign(w)
    gain = largest * jnp.sum(w * way, axis=axes)
    limit = jnp.finfo(w.dtype).max / 8
    length = jnp.where(gain > 0, jnp.minimum(amount / gain, limit), 0)
    return like(length, w) * way


@shares(ModelOptions, norm="l2")
def deepfool(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    steps: int = 50,
    overshoot: Annotated[float, Range(0, 100)] = 0.02,
    **options: Unpack[ModelOptions],
) -> Images:
    """DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2).

    Each step takes the logits as linear, goes to the nearest point at which another
    class catches up with `y` (of all classes), 1 + overshoot times as far, and into
    the box; a row stops once it is misclassified. As in the authors' code the point
    looked at is the image plus 1 + overshoot times all steps so far; the paper's
    algorithm overshoots after the last step only, and ends further away. Uses no
    randomness. Where the point so found is not within `eps`, the image is returned.

    Args:
      steps: steps, at least 0, of one gradient per class each; static.
      overshoot: share of the perturbation that is added to it.
      norm: 'l2' or 'linf', in which the steps are shortest.

    Reference:
      Moosavi-Dezfooli, Fawzi, Frossard, DeepFool: a simple and accurate method to fool
      deep neural networks, CVPR 2016, arXiv 1511.04599, algorithm 2; other norms:
      section 3.3.
    """
    if options.get("norm") == "l1":
        raise ValueError(
            "deepfool has `norm` 'l2' or 'linf', got 'l1', in which a step would be a "
            "single value and end at the wall; use fab."
        )
    method = DeepFool(steps, overshoot=overshoot)
    return iterate(method, logits_fn, x, y, eps, **options)
