"""Stochastic weight averaging: an even mean of the weights at the ends of epochs.

Izmailov et al., UAI 2018, arXiv 1803.05407; for adversarial training Chen et al., ICLR
2021, "Robust overfitting may be mitigated by properly learned smoothening".
"""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.training.state import Averaged, TrainState


class Span(NamedTuple):
    """Which weights are averaged: after `start` steps those at each `every`."""

    start: int
    every: int

    @classmethod
    def of(cls, epochs: float, total: int, steps_per_epoch: int) -> Self:
        """That of the last `epochs`, a whole number, of a run of `total` steps."""
        start = total - round(epochs * steps_per_epoch)
        return cls(max(0, start), steps_per_epoch)

    def weight(self, step: Array) -> Float[Array, ""]:
        """That of the weights after a step (from 0 on) in the mean so far.

        Before the first of the mean it is 1: the mean is the weights as they are.
        """
        past = step + 1 - self.start
        count = past // self.every
        taken = jnp.where(past % self.every == 0, 1 / jnp.maximum(count, 1), 0.0)
        return jnp.where(count < 1, 1.0, taken)


def evenly(state: TrainState, span: Span) -> TrainState:
    """Takes the weights after a step into the mean; so do running statistics.

    The release measures the statistics of the averaged network anew; their mean, which
    needs no pass over the data, is near those while the weights are near each other.
    """
    weight = span.weight(state.step)

    def mean(new: Any, old: Any) -> Any:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new  # a counter
        w = weight.astype(new.dtype)
        return w * new + (1 - w) * old

    now = Averaged(state.params["model"], state.model_state)
    return state.replace(ema_params=jax.tree.map(mean, now, state.ema_params))
