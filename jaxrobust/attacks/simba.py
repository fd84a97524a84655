"""SimBA: one direction of an orthonormal basis after the other, from logits alone."""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxrobust._checks import Range, check_images
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, like
from jaxrobust.attacks._objective import Judged, Keys, Problem, fold
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares
from jaxrobust.attacks._search import Carry, Search
from jaxrobust.attacks._waves import cosines

_ORDER_STREAM = 0x73696D


class Turn(NamedTuple):
    """The order of the directions, the place in it, and which side is tried."""

    order: Int[Array, "B n"]
    place: Int[Array, " B"]
    ahead: jax.Array


@dataclasses.dataclass(frozen=True)
class SimBA(Search):
    """SimBA without its arrays; rows go through their directions at their own pace."""

    random = "SimBA"

    step_length: float = 0.2
    basis: str = "pixel"
    frequencies: int | None = None

    def first(self, problem: Problem, keys: Keys, r: Count) -> tuple[Images, Turn]:
        """Starts at the image, with an order of its own for each row."""
        x = problem.x
        tall, wide = (len(one) for one in self._sides(x))
        size = tall * wide * x.shape[3]
        shuffled = jax.vmap(lambda key: jax.random.permutation(key, size))
        order = shuffled(fold(keys, _ORDER_STREAM))
        none = jnp.zeros(x.shape[:1], jnp.int32)
        return x, Turn(order, none, none > 0)

    def propose(
        self, problem: Problem, keys: Keys, i: Count, carry: Carry
    ) -> tuple[Images, Turn]:
        """Goes back along the next direction, or ahead if that was in vain."""
        turn, x = carry.own, problem.x
        own = jnp.take_along_axis(turn.order, turn.place[:, None], axis=1)[:, 0]
        tall, wide = (jnp.asarray(one, x.dtype) for one in self._sides(x))
        channels = x.shape[3]
        row, column = own // channels // len(wide), own // channels % len(wide)
        plane = tall[row][:, :, None] * wide[column][:, None, :]
        channel = jax.nn.one_hot(own % channels, channels, dtype=x.dtype)
        way = plane[..., None] * channel[:, None, None, :]
        width = problem.bounds[1] - problem.bounds[0]
        length = jnp.where(turn.ahead, 1, -1).astype(x.dtype)
        length = like(length * self.step_length * width, x)
        return problem.project(jnp.clip(carry.x + length * way, *problem.bounds)), turn

    def answered(self, carry: Carry, own: Any, better: jax.Array, at: Judged) -> Turn:
        """The other side if this one was in vain, else the next direction."""
        done = better | own.ahead
        size = own.order.shape[1]
        place = jnp.where(done, (own.place + 1) % size, own.place)
        return Turn(own.order, place, ~done)

    def _sides(self, x: Images) -> list[np.ndarray]:
        """Vectors [n, H] and [n, W] whose products are the directions in a channel."""
        found = []
        for size in x.shape[1:3]:
            all_ = np.eye(size) if self.basis == "pixel" else cosines(size)
            found.append(all_[: self.frequencies])
        return found


@shares(LossOptions, loss="margin")
def simba(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    queries: int = 10_000,
    step_length: Annotated[float, Range(0, 1e6, above=True)] = 0.2,
    basis: Literal["pixel", "dct"] = "pixel",
    frequencies: PositiveInt | None = None,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """SimBA (Guo et al. 2019, algorithm 1): steps along a basis, from logits.

    In a random order of the directions of a basis, the image goes back by
    `step_length` along one, or ahead if that does not raise the loss, and stays if
    neither does. A row that is misclassified stays as it is, and the order begins again
    at its end. Points go back into the ball (ours): in the paper nothing but the number
    of steps, of `step_length` each, bounds the L2 length.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 3.1)], 1)
    >>> x, y, key = jnp.ones((1, 2, 2, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.simba(logits_fn, x, y, key=key, eps=2.0, norm="l2")
    >>> round(float(x_adv.sum()), 1)  # five steps of .2
    3.0

    Args:
      queries: model calls after the image's own, at least 0; static.
      step_length: of a step, in units of the box's width.
      basis: 'pixel' for single values, or 'dct' for waves over a channel.
      frequencies: take only the first so many per side, the lowest; None: all. The
        authors take 28 of 224 (and 32 of 299) in 'dct'.

    Reference:
      Guo, Gardner, You, Wilson, Weinberger: Simple black-box adversarial attacks, ICML
      2019, arXiv 1905.07121, algorithm 1.
    """
    check_images(x)
    method = SimBA(
        queries,
        restarts,
        step_length=step_length,
        basis=basis,
        frequencies=frequencies,
    )
    return iterate(method, logits_fn, x, y, eps, **options)
