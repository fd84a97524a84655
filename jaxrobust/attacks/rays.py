"""RayS: the direction of signs along which the boundary is nearest, from decisions."""

import dataclasses
import math
from typing import Annotated, NamedTuple, Unpack

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxrobust._checks import Range, check_count
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._descent import width
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, like, model_keys
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate
from jaxrobust.attacks._options import ModelOptions, shares


class Carry(NamedTuple):
    """State between two queries, each row at its own place in the algorithm."""

    ahead: Bool[Array, "B ..."]  # the best direction: the signs that are 1
    radius: PerExample  # how far along it the boundary is
    searching: Bool[Array, " B"]  # between low and high, along the one being tried
    low: PerExample
    high: PerExample
    level: Int[Array, " B"]  # 2^level blocks
    block: Int[Array, " B"]
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class RayS(Smallest):
    """RayS without its arrays: a step is a query, and the start is one more."""

    norms = ("linf",)

    tolerance: float = 1e-3

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Asks for the image itself; the first direction is all ones."""
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        none = jnp.zeros(x.shape[:1], jnp.int32)
        far = jnp.full(x.shape[:1], width(problem), x.dtype)
        return Carry(
            ahead=jnp.ones(x.shape, bool),
            radius=far,
            searching=none > 0,
            low=0 * far,
            high=far,
            level=none,
            block=none,
            nearest=Nearest.first(problem, at.fooled),
            health=Health.of(problem, at.logits),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Asks whether the flipped direction is nearer, or where its boundary is."""
        x = problem.x
        block, last = _block(x, carry.level, carry.block)
        tried = carry.ahead ^ block
        middle = (carry.low + carry.high) / 2
        length = like(jnp.where(carry.searching, middle, carry.radius), x)
        query = jnp.clip(x + jnp.where(tried, length, -length), *problem.bounds)
        fooled = evaluate(problem, query, model_keys(problem, keys, i)).fooled
        searching, begins = carry.searching, ~carry.searching & fooled
        low = jnp.where(searching & ~fooled, middle, carry.low)
        high = jnp.where(searching & fooled, middle, carry.high)
        low = jnp.where(begins, 0, low)
        high = jnp.where(begins, carry.radius, high)
        close = self.tolerance * width(problem) / math.sqrt(x[0].size)
        found = searching & (high - low <= close)
        takes = found & (high < carry.radius)
        next_ = found | (~searching & ~fooled)
        deepest = (x[0].size - 1).bit_length()
        deeper = jnp.minimum(carry.level + 1, deepest)
        return Carry(
            ahead=jnp.where(like(takes, x), tried, carry.ahead),
            radius=jnp.where(takes, high, carry.radius),
            searching=begins | (searching & ~found),
            low=low,
            high=high,
            level=jnp.where(next_ & last, deeper, carry.level),
            block=jnp.where(next_, jnp.where(last, 0, carry.block + 1), carry.block),
            nearest=carry.nearest.or_nearer(problem, query, fooled),
            health=carry.health,
        )

    def done(self, carry: Carry) -> Bool[Array, " B"]:
        """Rows whose image needs no change."""
        return carry.nearest.distance == 0


def _block(
    x: Images, level: Int[Array, " B"], block: Int[Array, " B"]
) -> tuple[Bool[Array, "B ..."], Bool[Array, " B"]]:
    """Marks the values of a block, and tells whether it is the last of its level.

    Blocks follow each other channel by channel, as in the authors' code.
    """
    shape, size = x.shape[1:], x[0].size
    order = np.arange(size).reshape(shape[-1], *shape[:-1])
    order = jnp.asarray(np.moveaxis(order, 0, -1))[None]
    count = jnp.left_shift(1, level)
    length = -(-size // count)
    first = block * length
    inside = (order >= like(first, x)) & (order < like(first + length, x))
    return inside, (block + 1 >= count) | (first + length >= size)


@shares(ModelOptions)
def rays(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    queries: int = 10_000,
    tolerance: Annotated[float, Range(0, 1, above=True)] = 1e-3,
    **options: Unpack[ModelOptions],
) -> Images:
    """RayS (Chen & Gu 2020, algorithms 2 and 3): small in Linf, from decisions.

    Looks for the direction of signs along which the boundary is nearest. In turns the
    signs in blocks of the image are flipped, of all, of halves, of quarters ... down to
    single values: if the point as far along as the best boundary is misclassified, a
    binary search finds the nearer boundary, and the flip stays. Uses no randomness and
    no scores. Rows go through this each at its own pace, a query at a time, until the
    budget is spent, where the authors' code ends its last search. Targets, which that
    code has, are out: few directions of signs lead to a certain class.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> weights = jnp.array([1.0, -2.0, 3.0, 1.0])
    >>> logits_fn = lambda x: jnp.stack([x @ weights, jnp.full(len(x), 1.0)], axis=1)
    >>> x, y = jnp.full((1, 4), 0.5), jnp.array([0])  # .5 above, weights of sum 7
    >>> x_adv = attacks.rays(logits_fn, x, y, queries=100)
    >>> round(float(abs(x_adv - x).max()), 3)
    0.072

    Args:
      queries: all model calls per image, the one for the image itself and those of
        `eot_samples` included, never exceeded; at least `eot_samples`; static.
      tolerance: of a search, in L2 and units of the box's width.
      norm: 'linf'; the attack has no other.

    Reference:
      Chen, Gu: RayS: a ray searching method for hard-label adversarial attack, KDD
      2020, arXiv 2006.12792, algorithms 2 and 3.
    """
    eot_samples = options.get("eot_samples", 1)
    check_count("queries", queries, eot_samples)
    method = RayS(queries // eot_samples - 1, tolerance=tolerance)
    return iterate(method, logits_fn, x, y, eps, **options)
