"""The saliency map attack: pairs of values, few of them, moved as far as it takes."""

import dataclasses
import math
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust._shards import varied_alike
from jaxrobust.array_types import Images, Labels, Logits, LogitsFn, Scalar
from jaxrobust.attacks._checks import check_images
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._fab_logits import likely_wrong_class
from jaxrobust.attacks._method import Count, Health, model_keys, watched
from jaxrobust.attacks._nearest import Walk
from jaxrobust.attacks._objective import Keys, Problem, mean_logits, succeeds
from jaxrobust.attacks._options import TargetOptions, shares

# Numbers of a block of the table of all pairs: 8 MB in float32.
_BLOCK = 1 << 21

Rows = Float[Array, "B d"]


class Carry(NamedTuple):
    """The iterate, the class that each row is moved to, and who moves no more."""

    x: Images
    target: Labels
    still: jax.Array
    health: Health | None


@dataclasses.dataclass(frozen=True)
class JSMA(Walk):
    """The saliency map attack without its arrays: a step changes a pair."""

    theta: float = 1.0

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image, towards the target or the most likely wrong class."""
        x, target = problem.x, problem.y
        if not problem.targeted:
            logits = mean_logits(problem, x, model_keys(problem, keys, self.steps))
            target = likely_wrong_class(logits, target, jnp.zeros_like(target), 1)
        health = Health.first(problem, self.steps, keys, x)
        return Carry(x, target, jnp.zeros(x.shape[:1], bool), health)

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Adds theta to the most salient pair; stays where misclassified."""
        x = carry.x
        row_keys = model_keys(problem, keys, i)
        up, down, logits = _forward_derivatives(problem, x, carry.target, row_keys)
        low, high = problem.bounds
        sign = 1.0 if self.theta > 0 else -1.0
        free = x < high if self.theta > 0 else x > low
        rows = (v.reshape(v.shape[0], -1) for v in (sign * up, -sign * down, free))
        p, q, found = best_pair(*rows)
        moves = found & ~succeeds(problem, logits)
        place = jnp.arange(math.prod(x.shape[1:]))[None]
        pair = ((place == p[:, None]) | (place == q[:, None])) & moves[:, None]
        ahead = jnp.clip(x + self.theta, low, high)
        x = jnp.where(pair.reshape(x.shape), ahead, x)
        # Randomness may move a row again.
        still = jnp.zeros_like(moves) if problem.stochastic else ~moves
        return Carry(x, carry.target, still, watched(carry.health, up, logits, i))

    def done(self, carry: Carry) -> jax.Array:
        """Rows that did not move: misclassified, or without a pair that helps."""
        return carry.still


def _forward_derivatives(
    problem: Problem, x: Images, target: Labels, keys: Keys
) -> tuple[Images, Images, Logits]:
    """Gradients of the target's logit and of the sum of all others, and the logits."""
    logits, pull = jax.vjp(lambda z: mean_logits(problem, z, keys), x)
    own = jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
    return pull(own)[0], pull(1 - own)[0], logits


def best_pair(
    a: Rows, c: Rows, free: jax.Array
) -> tuple[Int[Array, " B"], Int[Array, " B"], jax.Array]:
    """Finds the pair p != q of free places with the largest (a_p + a_q)(c_p + c_q).

    Both sums must be above 0. No pair of p is better than p with the largest a and
    the largest c of all; the places are gone through in the order of that bound, a
    block of the table of all pairs at a time, until no bound is above the best pair
    found. So the pair is exact, and one block is usually enough.

    `a` is the growth of the target's logit per place, `c` the fall of the others.
    Returns p, q, and whether there is such a pair, `[B]` each.
    """
    batch, size = a.shape
    a, c = (jnp.where(free, _over_largest(v), -jnp.inf) for v in (a, c))

    def product(rise: jax.Array, fall: jax.Array) -> jax.Array:
        return jnp.maximum(rise, 0) * jnp.maximum(fall, 0)

    def scores(p: Int[Array, "B n"]) -> Float[Array, "B n d"]:
        a_p, c_p = (jnp.take_along_axis(v, p, 1)[:, :, None] for v in (a, c))
        every = product(a_p + a[:, None], c_p + c[:, None])
        return jnp.where(p[:, :, None] != jnp.arange(size)[None, None], every, 0)

    largest_a, largest_c = (jnp.max(v, axis=1, keepdims=True) for v in (a, c))
    bound = product(a + largest_a, c + largest_c)
    order = jnp.argsort(-bound, axis=1)
    bound = jnp.take_along_axis(bound, order, 1)
    width = max(1, min(size, _BLOCK // (batch * size)))

    def go_on(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        k, best, _ = state
        first = jnp.minimum(k, size - 1)
        return (k < size) & jnp.any(jnp.take(bound, first, axis=1) > best)

    def block(state: tuple[jax.Array, jax.Array, jax.Array]):
        k, best, p = state
        first = jnp.minimum(k, size - width)  # the last block overlaps
        places = jax.lax.dynamic_slice_in_dim(order, first, width, 1)
        top = jnp.max(scores(places), axis=2)
        new = jnp.take_along_axis(places, jnp.argmax(top, axis=1)[:, None], 1)[:, 0]
        top = jnp.max(top, axis=1)
        return k + width, jnp.maximum(top, best), jnp.where(top > best, new, p)

    none = jnp.zeros(batch, a.dtype), jnp.zeros(batch, order.dtype)
    first, _ = varied_alike(((jnp.int32(0), *none), (a, c)))
    _, best, p = jax.lax.while_loop(go_on, block, first)
    return p, jnp.argmax(scores(p[:, None])[:, 0], axis=1), best > 0


def _over_largest(rows: Rows) -> Rows:
    """Divides by the largest size, so that no product overflows or vanishes."""
    rows = threat.tamed(rows)
    return threat.safe_divide(rows, jnp.max(jnp.abs(rows), axis=1, keepdims=True))


@shares(TargetOptions, norm="l1")
def jsma(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    theta: float = 1.0,
    gamma: Annotated[float, Range(0, 1)] = 1.0,
    **options: Unpack[TargetOptions],
) -> Images:
    """Jacobian-based saliency map attack (Papernot et al. 2016, algorithms 2 and 3).

    Each step adds `theta` to two values of the image (a value is one channel of one
    pixel): of all pairs that raise the target's logit and lower the sum of the other
    logits, those where the product of rise and fall is largest. A value that has come
    to the wall of the box is not chosen again; a row stops once it is misclassified,
    and where no pair does both. The paper's attack has targets: without one, it is
    the most likely wrong class of the image, and any wrong class ends it. Changes few
    values, by much. Uses no randomness.

    A step is one model call and two gradients, and looks for the best pair of all,
    exactly, at a small part of the time that the table of all pairs would take.

    Args:
      theta: what a step adds to a value, in units of the images; below 0, takes away.
      gamma: largest share of the values that are changed, in [0, 1]; static. Makes for
        H W C gamma / 2 steps at most, fewer once no row moves. The paper's experiments
        have .145.
      norm: 'l1', 'linf' or 'l2', in which `eps` is; what the attack itself keeps small
        is the number of values that are changed.

    Reference:
      Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, The limitations of deep
      learning in adversarial settings, EuroS&P 2016, arXiv 1511.07528, section IV.
    """
    check_images(x)
    if not 0 < abs(theta) < math.inf:
        raise ValueError(
            "`theta` is what is added to a value: it must be a number other than 0, "
            f"got {theta}."
        )
    steps = math.floor(math.prod(x.shape[1:]) * gamma / 2)
    return iterate(JSMA(steps, theta=theta), logits_fn, x, y, eps, **options)
