"""A first misclassified point by decisions: noise, then halvings to the image."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrobust.array_types import Images, Key, PerExample
from jaxrobust.attacks._method import choose, like, model_keys, repeat
from jaxrobust.attacks._objective import Keys, Problem, evaluate, fold
from jaxrobust.attacks.hop_skip_jump import draw, in_blocks

_DRAW_STREAM = 0x646563
# Halvings between a misclassified point and the image.
_HALVINGS = 10


class Sought(NamedTuple):
    """A row's way to its first point: noise is tried, then what lies before it."""

    start: Images  # misclassified, once `halvings` is above 0
    low: PerExample  # shares of the way from the image to it
    high: PerExample
    tries: Int[Array, " B"]
    halvings: Int[Array, " B"]  # queries since there is a start

    @classmethod
    def first(cls, problem: Problem) -> "Sought":
        """Before the first query."""
        none = jnp.zeros(problem.x.shape[:1], jnp.int32)
        share = none.astype(problem.x.dtype)
        return cls(problem.x, share, share + 1, none, none)

    @property
    def found(self) -> Bool[Array, " B"]:
        """Rows that are at the boundary."""
        return self.halvings > _HALVINGS

    def after(self, problem: Problem, query: Images, fooled: jax.Array) -> "Sought":
        """The state after the answer to what `seek` asked."""
        begun, middle = self.halvings > 0, (self.low + self.high) / 2
        begins = ~begun & fooled
        return Sought(
            jnp.where(like(begins, query), query, self.start),
            jnp.where(begun & ~fooled, middle, self.low),
            jnp.where(begun & fooled, middle, self.high),
            self.tries + ~begun,
            self.halvings + (begun | begins),
        )


def seek(problem: Problem, sought: Sought, keys: Key) -> Images:
    """The next query on the way: `x_init`, noise, or the middle of what is left."""
    x, (low, high) = problem.x, problem.bounds
    noise = low + (high - low) * (in_blocks(draw(keys, x), sought.tries) + 1) / 2
    if problem.x_init is not None:
        noise = jnp.where(like(sought.tries == 0, x), problem.x_init, noise)
    middle = like((sought.low + sought.high) / 2, x)
    between = x + middle * (sought.start - x)
    point = jnp.where(like(sought.halvings > 0, x), between, noise)
    return jnp.clip(point, low, high)


def first_misclassified(problem: Problem, keys: Keys, tries: int) -> Images:
    """The first that is misclassified of `x_init` and noise; the image if none is."""

    def look(i: jax.Array, sought: Sought) -> Sought:
        query = seek(problem, sought, fold(keys, _DRAW_STREAM, i))
        fooled = evaluate(problem, query, model_keys(problem, keys, i)).fooled
        return choose(sought.halvings > 0, sought, sought.after(problem, query, fooled))

    def begun(sought: Sought) -> Bool[Array, " B"]:
        return sought.halvings > 0

    return repeat(tries, look, Sought.first(problem), 1, begun).start
