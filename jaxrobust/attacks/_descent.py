"""What descents to the nearest misclassified point share: start, rates, and an end."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import Images, PerExample
from jaxrobust.attacks._method import Count, choose, model_keys, repeat
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate


@dataclasses.dataclass(frozen=True)
class DescentToNearest(Smallest):
    """One that starts at the image or at `x_init`, and looks once at each point."""

    def begin(self, problem: Problem, keys: Keys) -> tuple[Images, Nearest]:
        """Returns the first point, the image where that is what is looked for.

        The first step looks at it; only another start than the image costs a call.
        """
        x, start = problem.x, problem.x_init
        if start is None:
            return x, Nearest.first(problem, jnp.zeros(x.shape[:1], bool))
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        start = jnp.clip(start, *problem.bounds)
        return choose(at.fooled, x, start), Nearest.first(problem, at.fooled)

    def done(self, carry: Any) -> jax.Array:
        """Rows whose image needs no change."""
        return carry.nearest.distance == 0

    def annealed(self, i: Count, first: float, last: float) -> jax.Array:
        """Half a cosine over the steps, from one number to (nearly) another."""
        share = (1 + jnp.cos(jnp.pi * jnp.asarray(i) / max(self.steps, 1))) / 2
        return last + (first - last) * share


def width(problem: Problem) -> float:
    """How wide the box is, in which steps are told."""
    return problem.bounds[1] - problem.bounds[0]


def farthest(problem: Problem) -> PerExample:
    """The distance of the farthest corner of the box."""
    x, (low, high) = problem.x, problem.bounds
    corner = jnp.where(x - low > high - x, low, high)
    return threat.distance(corner, x, norm=problem.norm)


def to_boundary(problem: Problem, keys: Keys, start: Images, steps: int) -> Images:
    """Goes from `start` towards the image as far as halvings tell that it may.

    The points between are the projections of `start` into smaller and smaller balls. A
    start that is not misclassified stays where it is.
    """

    def halve(i: jax.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = state
        middle = (low + high) / 2
        point = problem.project(start, eps=middle)
        fooled = evaluate(problem, point, model_keys(problem, keys, i)).fooled
        return jnp.where(fooled, low, middle), jnp.where(fooled, middle, high)

    length = threat.distance(start, problem.x, norm=problem.norm)
    _, high = repeat(steps, halve, (jnp.zeros_like(length), length), 1)
    return choose(high < length, problem.project(start, eps=high), start)
