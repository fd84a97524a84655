"""One pixel: differential evolution of places and colours, from logits alone."""

import dataclasses
from typing import Annotated, Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust._checks import Range, check_images
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count
from jaxrobust.attacks._objective import Judged, Keys, Problem, fold
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares
from jaxrobust.attacks._search import Carry, Search

_FIRST_STREAM, _STREAM = 0x6F7031, 0x6F7032

Genes = Float[Array, "B pixels g"]  # row, column and channels, of the box from 0 to 1


class Population(NamedTuple):
    """Candidates with their losses, and the one that was asked last."""

    genes: Float[Array, "B members pixels g"]
    values: Float[Array, "B members"]
    asked: Genes
    member: jax.Array


@dataclasses.dataclass(frozen=True)
class OnePixel(Search):
    """The attack without its arrays: a step is a query, of one member after the other.

    The first `population` queries are for the first generation.
    """

    norms = ("l0_pixels",)
    random = "one_pixel"

    population: int = 400
    pixels: int = 1
    factor: float = 0.5

    def first(self, problem: Problem, keys: Keys, r: Count) -> tuple[Images, Any]:
        """Starts at the image, with a population that nobody has looked at."""
        x, own = problem.x, fold(keys, _FIRST_STREAM)
        shape = (self.population, self.pixels)
        place = jax.vmap(lambda key: jax.random.uniform(key, (*shape, 2), x.dtype))
        colour = jax.vmap(
            lambda key: jax.random.normal(key, (*shape, x.shape[3]), x.dtype)
        )
        colours = jnp.clip(0.5 + 0.5 * colour(fold(own, 1)), 0, 1)
        genes = jnp.concatenate([place(fold(own, 0)), colours], axis=3)
        none = jnp.full((len(x), self.population), -jnp.inf, x.dtype)
        return x, Population(genes, none, genes[:, 0], jnp.int32(0))

    def propose(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Any:
        """Asks for a member of the first generation, then for children: equation 1."""
        own: Population = carry.own
        member = jnp.asarray(i, jnp.int32) % self.population
        drawn = fold(keys, _STREAM, i)
        three = jax.vmap(lambda key: _three(key, self.population))(drawn)
        a, b, c = (
            jnp.take_along_axis(own.genes, k[:, None, None, None], axis=1)[:, 0]
            for k in three
        )
        child = a + self.factor * (b - c)
        again = jax.vmap(
            lambda key: jax.random.uniform(key, child.shape[1:], child.dtype)
        )(fold(drawn, 1))
        child = jnp.where((child >= 0) & (child <= 1), child, again)
        given = jax.lax.dynamic_index_in_dim(own.genes, member, 1, keepdims=False)
        asked = jnp.where(jnp.asarray(i) < self.population, given, child)
        point = problem.project(_painted(problem, asked))
        return point, own._replace(asked=asked, member=member)

    def answered(self, carry: Carry, own: Any, better: jax.Array, at: Judged) -> Any:
        """A child takes its parent's place where its loss is no lower."""
        mine = jnp.arange(self.population)[None] == own.member
        value = at.value.astype(own.values.dtype)[:, None]
        wins = mine & (value >= own.values)
        genes = jnp.where(wins[:, :, None, None], own.asked[:, None], own.genes)
        return own._replace(genes=genes, values=jnp.where(wins, value, own.values))


def _three(key: Key, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws three different numbers below `count`, without a permutation of all."""
    a, b, c = jax.random.randint(key, (3,), 0, count - jnp.arange(3))
    b += b >= a
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    c += c >= low
    c += c >= high
    return a, b, c


def _painted(problem: Problem, genes: Genes) -> Images:
    """Puts the pixels of candidates into the images, the last ones on top.

    No more than the radius allows: a candidate's first pixels.
    """
    x, (low, high) = problem.x, problem.bounds
    height, width = x.shape[1:3]
    counts = jnp.broadcast_to(jnp.asarray(problem.eps, x.dtype), x.shape[:1])
    for k in range(genes.shape[1]):
        row, column = (
            jnp.minimum((genes[:, k, axis] * size).astype(jnp.int32), size - 1)
            for axis, size in enumerate((height, width))
        )
        here = (jnp.arange(height)[None] == row[:, None])[:, :, None]
        here = here & (jnp.arange(width)[None] == column[:, None])[:, None]
        here = here & (k + 1 <= counts)[:, None, None]
        colour = low + (high - low) * genes[:, k, None, None, 2:]
        x = jnp.where(here[..., None], colour, x)
    return x


@shares(LossOptions, loss="margin", norm="l0_pixels")
def one_pixel(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar = 1.0,
    steps: int = 100,
    pixels: PositiveInt = 1,
    population: Annotated[int, Range(4)] = 400,
    factor: Annotated[float, Range(0, 2)] = 0.5,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """One pixel attack (Su et al. 2019): few pixels of any colour, from logits.

    Differential evolution of candidates, each the places and colours of `pixels`
    pixels: a member's child is r1 + factor (r2 - r3) of three members drawn at random,
    and takes its place where the loss is no lower. Members are asked one after the
    other, so a child may be of members of its own generation; what leaves the image or
    the box is drawn anew (the paper says nothing of it). A row that is misclassified
    stays as it is. The model is called `population * (steps + 1) + 1` times.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x[:, 2, 1, 0], 1 - x[:, 2, 1, 0]], axis=1) * 9
    >>> x, y, key = jnp.ones((1, 4, 4, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.one_pixel(logits_fn, x, y, key=key, population=50, steps=9)
    >>> jnp.argwhere(x_adv != x).tolist()
    [[0, 2, 1, 0]]

    Args:
      eps: how many pixels may change, a number or one per example `[B]`; may be traced.
        `pixels` says how many a candidate has: give both for more than one.
      steps: generations after the first, at least 0; static.
      pixels: of a candidate, at least 1; static. The paper has 1, 3 and 5.
      population: candidates, at least 4; static.
      factor: F of differential evolution.
      norm: 'l0_pixels'; the attack has no other.

    Reference:
      Su, Vargas, Sakurai: One pixel attack for fooling deep neural networks, IEEE
      Transactions on Evolutionary Computation 2019, arXiv 1710.08864, section III.
    """
    check_images(x)
    method = OnePixel(
        population * (steps + 1),
        restarts,
        population=population,
        pixels=pixels,
        factor=factor,
    )
    return iterate(method, logits_fn, x, y, eps, **options)
