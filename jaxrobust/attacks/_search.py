"""Search from scores: a point is tried per step, and kept where it is better."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Images, PerExample
from jaxrobust.attacks._method import Count, Health, Method, choose, like, model_keys
from jaxrobust.attacks._objective import Judged, Keys, Problem, evaluate, succeeds


class Carry(NamedTuple):
    """The best point so far, its value, whether it is misclassified, and `own`."""

    x: Images
    value: PerExample
    fooled: jax.Array
    own: Any  # what an attack keeps to make its points of
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Search(Method):
    """A search in a ball: a step is a query, and a row ends where misclassified.

    A subclass gives `first` and `propose`, and `answered` where it learns more.
    """

    ball = True

    def first(self, problem: Problem, keys: Keys, r: Count) -> tuple[Images, Any]:
        """Returns the first point, and what is kept of it."""
        raise NotImplementedError

    def propose(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Any:
        """Returns the point of query i, and what is kept if it is better."""
        raise NotImplementedError

    def answered(self, carry: Carry, own: Any, better: jax.Array, at: Judged) -> Any:
        """Returns what is kept after an answer; rows with a mistake do not count."""
        return choose(better, own, carry.own)

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Looks at the image and at the first point."""
        x = problem.x
        clean = problem.clean_logits(model_keys(problem, keys, self.steps + 1))
        settled = succeeds(problem, clean)
        point, own = self.first(problem, keys, r)
        at = evaluate(problem, point, model_keys(problem, keys, self.steps))
        return Carry(
            choose(settled, x, point),
            _comparable(at.value, x),
            settled | at.fooled,
            own,
            Health.of(problem, clean),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Tries a point; keeps it if the loss is higher or the class wrong."""
        point, own = self.propose(problem, keys, i, carry)
        at = evaluate(problem, point, model_keys(problem, keys, i))
        value = _comparable(at.value, problem.x)
        better = ~carry.fooled & (at.fooled | (value > carry.value))
        health = carry.health
        if health is not None:
            # What does not move at first, as with a radius of 0, is not told.
            moved = jnp.any((point != carry.x).reshape(len(point), -1), axis=1)
            same = (at.value == carry.value) & (moved | (jnp.asarray(i) > 0))
            health = health.saw(at.logits).flat(same & ~carry.fooled & ~at.fooled, i)
        return Carry(
            jnp.where(like(better, point), point, carry.x),
            jnp.where(better, value, carry.value),
            carry.fooled | at.fooled,
            self.answered(carry, own, better, at),
            health,
        )

    def finish(self, problem: Problem, keys: Keys, carry: Carry) -> Images:
        """Returns the best point."""
        return carry.x

    def done(self, carry: Carry) -> jax.Array:
        """Rows that are misclassified."""
        return carry.fooled


def _comparable(value: PerExample, x: Images) -> PerExample:
    return jnp.where(jnp.isnan(value), -jnp.inf, value).astype(x.dtype)
