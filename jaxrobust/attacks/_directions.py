"""From gradients to the direction of a step: optax transformations, and their names."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxrobust.array_types import Images


class Direction(NamedTuple):
    """`make(*args)` is the transformation.

    Two of these are equal where they say the same, and then attacks compile once; optax
    makes functions, which are never equal.
    """

    make: Callable[..., optax.GradientTransformation] = optax.identity
    args: tuple[Any, ...] = ()

    def init(self, x: Images) -> optax.OptState:
        """The state before the first gradient."""
        return self.make(*self.args).init(x)

    def update(
        self, grad: Images, state: optax.OptState
    ) -> tuple[Images, optax.OptState]:
        """Takes in a gradient; returns the direction, and the new state."""
        direction, state = self.make(*self.args).update(grad, state)
        return direction, state  # pyright: ignore[reportReturnType]


GRADIENT = Direction()


def momentum(decay: float) -> optax.GradientTransformation:
    """Sums gradients over their means, those of the step before times `decay`."""
    return optax.chain(over_mean(), optax.trace(decay))


def over_mean() -> optax.GradientTransformation:
    """Divides gradients by their mean absolute value per image; zero stays zero."""
    return optax.stateless(lambda grad, _: _over_mean(grad))


def _over_mean(grad: Any) -> Images:
    axes = tuple(range(1, grad.ndim))
    limit = jnp.finfo(grad.dtype).max / 8
    grad = jnp.clip(jnp.nan_to_num(grad), -limit, limit)
    largest = jnp.max(jnp.abs(grad), axis=axes, keepdims=True)
    grad = grad / jnp.where(largest > 0, largest, 1)
    mean = jnp.mean(jnp.abs(grad), axis=axes, keepdims=True)
    return grad / jnp.where(mean > 0, mean, 1)
