"""What both attacks of Carlini & Wagner do: steps of Adam in a change of variable.

Images are low + (high - low) (tanh(w) + 1) / 2, so that every w is inside the box.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Bounds, Images, PerExample
from jaxrobust.attacks._ascent import Direction, adam
from jaxrobust.attacks._method import model_keys
from jaxrobust.attacks._nearest import Smallest
from jaxrobust.attacks._objective import Judged, Keys, Problem, evaluate

# Adam's is 1e-8: at a wall, where a step of w moves the image by 1e-6 of it, gradients
# are smaller than that, and a value that starts there would stay. Large enough for
# squares of what is smaller to vanish.
ADAM = Direction(adam, (1e-16,))


# What a weight is multiplied by until it is found to be enough.
_GROWTH = 10
# Margins at an image, in absolute value, that constants are meant for.
_USUAL = (0.01, 100)


def per_lead(margin: PerExample) -> PerExample:
    """Returns what constants are multiplied by for logits of an odd scale, `[B]`.

    1 where the margin at the image is of a usual size; else one over that size. So an
    attack finds as much where all logits are a million times larger or smaller.
    """
    size = jnp.abs(margin)
    odd = jnp.isfinite(size) & (size > 0)
    odd &= (size < _USUAL[0]) | (size > _USUAL[1])
    return 1 / jnp.where(odd, size, 1)


class Weight(NamedTuple):
    """The weight c of the margin `[B]`, between one that failed and one that did."""

    c: PerExample
    low: PerExample
    high: PerExample

    @classmethod
    def first(cls, margin: PerExample, c: float) -> "Weight":
        """That of the first descent from each image, which has that margin."""
        zero = jnp.zeros_like(margin)
        return cls(c * per_lead(margin), zero, zero + jnp.inf)

    def next(self, hit: jax.Array) -> "Weight":
        """Halves the interval after a descent; grows while none has `hit`, `[B]`."""
        low = jnp.where(hit, self.low, jnp.maximum(self.low, self.c))
        high = jnp.where(hit, jnp.minimum(self.high, self.c), self.high)
        c = jnp.where(jnp.isfinite(high), (low + high) / 2, _GROWTH * self.c)
        return Weight(c, low, high)


@dataclasses.dataclass(frozen=True)
class Carlini(Smallest):
    """What the two have in common: `descent` steps are those with one constant."""

    descent: int = 1000
    lr: float = 0.01
    kappa: float = 0.0
    initial_const: float = 1e-3

    def won(self, at: Judged) -> jax.Array:
        """Which points are misclassified by kappa."""
        return at.fooled & (at.value >= self.kappa)

    def at_the_images(
        self, problem: Problem, keys: Keys
    ) -> tuple[jax.Array, PerExample]:
        """Returns which images are so themselves, and their margins."""
        row_keys = model_keys(problem, keys, self.steps)
        at = evaluate(problem, problem.x, row_keys)
        return self.won(at), at.value.astype(problem.x.dtype)

    def descend(self, w: Images, grad: Images, state: Any) -> tuple[Images, Any]:
        """Makes one step of Adam, and its new state."""
        direction, state = ADAM.update(grad, state)
        return w - self.lr * direction, state


def from_images(x: Images, bounds: Bounds) -> Images:
    """Returns w; of values at a wall that of a value just inside."""
    low, high = bounds
    inside = 1 - max(1e-6, float(jnp.finfo(x.dtype).eps))
    return jnp.arctanh(inside * jnp.clip(2 * (x - low) / (high - low) - 1, -1, 1))


def to_images(w: Images, bounds: Bounds) -> tuple[Images, Images]:
    """Returns the images and their derivatives by w."""
    low, high = bounds
    x = jnp.clip(low + (high - low) * (jnp.tanh(w) + 1) / 2, low, high)
    # 1 - tanh^2 of numbers too large for the difference to be rounded to 0.
    slope = 4 * jax.nn.sigmoid(2 * w) * jax.nn.sigmoid(-2 * w)
    return x, (high - low) / 2 * slope
