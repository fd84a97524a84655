"""The nearest misclassified point so far: what minimum-norm attacks keep."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import Images, PerExample
from jaxrobust.attacks._method import Method, choose, model_keys
from jaxrobust.attacks._objective import Keys, Problem, mean_logits, succeeds


class Nearest(NamedTuple):
    """A point per example and its distance, infinite until there is one."""

    x: Images
    distance: PerExample

    @classmethod
    def first(cls, problem: Problem, fooled: jax.Array) -> "Nearest":
        """Begins with the images: at no distance where they fool the model already."""
        distance = jnp.where(fooled, 0, jnp.inf).astype(problem.x.dtype)
        return cls(problem.x, distance)

    def or_nearer(self, problem: Problem, x: Images, fooled: jax.Array) -> "Nearest":
        """Takes `x` where it fools the model from a smaller distance."""
        distance = threat.distance(x, problem.x, norm=problem.norm)
        wins = fooled & (distance < self.distance)
        return Nearest(*choose(wins, (x, distance), tuple(self)))

    def inside(self, problem: Problem) -> jax.Array:
        """Which rows have a point within eps, `[B]`."""
        return self.distance <= jnp.asarray(problem.eps, problem.x.dtype)


@dataclasses.dataclass(frozen=True)
class Smallest(Method):
    """An attack that looks for a small perturbation; its carry has a `nearest`."""

    def finish(self, problem: Problem, keys: Keys, carry: Any) -> Images:
        """Returns the nearest misclassified point within eps, else the image."""
        nearest = carry.nearest
        return choose(nearest.inside(problem), nearest.x, problem.x)


@dataclasses.dataclass(frozen=True)
class Walk(Smallest):
    """One that stops at its first misclassified point, the carry's `x`."""

    def finish(self, problem: Problem, keys: Keys, carry: Any) -> Images:
        """Returns the point where misclassified and within eps, else the image."""
        row_keys = model_keys(problem, keys, self.steps)
        fooled = succeeds(problem, mean_logits(problem, carry.x, row_keys))
        none = Nearest.first(problem, jnp.zeros_like(fooled))
        found = none.or_nearer(problem, carry.x, fooled)
        return choose(found.inside(problem), found.x, problem.x)
