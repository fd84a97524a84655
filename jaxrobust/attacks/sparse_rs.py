"""Sparse-RS: random search over which pixels change, from logits alone."""

import dataclasses
from typing import Annotated, Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count
from jaxrobust.attacks._objective import Keys, Problem, fold
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares
from jaxrobust.attacks._search import Carry, Search

_FIRST_STREAM, _STREAM = 0x727331, 0x727332
# Queries of 10,000 after which the share that moves is divided by so much.
_DIVISORS = ((0, 2), (50, 4), (200, 5), (500, 6), (1000, 8), (2000, 10), (4000, 12),
             (6000, 15), (8000, 20))  # fmt: skip


class Drawn(NamedTuple):
    """Numbers of one query: an order of the groups, twice, and corners of the box."""

    out: PerExample
    into: PerExample
    corners: Images

    @classmethod
    def of(cls, problem: Problem, keys: Keys) -> "Drawn":
        """Draws them, with a key per row."""
        x, (low, high) = problem.x, problem.bounds
        count = threat.grouped(x, problem.norm).shape[1]
        draw = jax.vmap(lambda key: jax.random.uniform(key, (2, count), x.dtype))
        order = draw(fold(keys, 0))
        sign = jax.vmap(lambda key: jax.random.bernoulli(key, shape=x.shape[1:]))
        corners = jnp.where(sign(fold(keys, 1)), high, low).astype(x.dtype)
        return cls(order[:, 0], order[:, 1], corners)


@dataclasses.dataclass(frozen=True)
class SparseRS(Search):
    """Sparse-RS without its arrays; it keeps which groups are changed."""

    norms = threat.SPARSE
    random = "Sparse-RS"

    alpha_init: float = 0.8

    def first(
        self, problem: Problem, keys: Keys, r: Count
    ) -> tuple[Images, Bool[Array, "B n"]]:
        """Puts random corners of the box at random places."""
        drawn = Drawn.of(problem, fold(keys, _FIRST_STREAM))
        chosen = threat.largest(drawn.out, _count(problem))
        return _put(problem, problem.x, chosen, drawn.corners), chosen

    def propose(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Any:
        """Takes some groups back, and puts corners at as many others."""
        drawn, chosen = Drawn.of(problem, fold(keys, _STREAM, i)), carry.own
        most = _count(problem)
        free = chosen.shape[1] - most
        share = jnp.asarray(self._shares(), problem.x.dtype)[i]
        moves = jnp.maximum(jnp.floor(share * most), 1)
        moves = jnp.minimum(jnp.minimum(moves, most), jnp.maximum(free, 1))
        out = threat.largest(jnp.where(chosen, drawn.out, -1), moves) & chosen
        into = threat.largest(jnp.where(chosen, -1, drawn.into), moves) & ~chosen
        # Where all are changed already, some get other values.
        into = jnp.where((free <= 0)[:, None], out, into)
        point = _put(problem, carry.x, out, problem.x)
        return _put(problem, point, into, drawn.corners), (chosen & ~out) | into

    def _shares(self) -> np.ndarray:
        """Which share of the groups moves at each query."""
        at = (np.arange(1, self.steps + 1) / max(self.steps, 1) * 10_000).astype(int)
        starts, divisors = zip(*_DIVISORS, strict=True)
        return self.alpha_init / np.take(divisors, np.searchsorted(starts, at) - 1)


def _count(problem: Problem) -> PerExample:
    """How many groups change, `[B]`."""
    eps = jnp.asarray(problem.eps, problem.x.dtype)
    count = threat.grouped(problem.x, problem.norm).shape[1]
    most = jnp.minimum(jnp.floor(eps), count).reshape(-1)
    return jnp.broadcast_to(most, problem.x.shape[:1])


def _put(problem: Problem, x: Images, chosen: jax.Array, values: Images) -> Images:
    """Takes the values of the chosen groups."""
    old, new = (threat.grouped(v, problem.norm) for v in (x, values))
    return jnp.where(chosen[:, :, None], new, old).reshape(x.shape)


@shares(LossOptions, loss="margin", norm="l0_pixels")
def sparse_rs(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    queries: int = 5000,
    alpha_init: Annotated[float, Range(0, 1, above=True)] = 0.8,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """Sparse-RS (Croce et al. 2022, algorithm 1): at most `eps` pixels, from logits.

    `eps` random pixels have random corners of the box for values. Each query puts some
    of them back and changes as many others, drawn at random; the change stays if the
    loss is higher or the class wrong. How many move falls in the steps of the authors'
    code, which are made for 10,000 queries and squeezed into `queries`. A row that is
    misclassified stays as it is. Which pixels move is drawn per image, not per batch,
    and targets have the margin for their loss, where the authors take cross-entropy.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> weights = jnp.array([1.0, 2.0, 9.0, 1.0])  # the third value is enough
    >>> logits_fn = lambda x: jnp.stack([x @ weights, jnp.full(len(x), 5.0)], axis=1)
    >>> x, y, key = jnp.ones((1, 4)), jnp.array([0]), jax.random.key(0)
    >>> attacks.sparse_rs(logits_fn, x, y, key=key, eps=1, queries=100).tolist()
    [[1.0, 1.0, 0.0, 1.0]]

    Args:
      eps: how many pixels (values in 'l0') may change, rounded down: a number, or one
        per example `[B]`; may be traced.
      queries: model calls after the first point, at least 0; static.
      alpha_init: share of the pixels that the first queries move (half of it, as in the
        authors' code), in (0, 1].
      norm: 'l0_pixels', or 'l0' to count values instead of pixels.

    Reference:
      Croce, Andriushchenko, Singh, Flammarion, Hein: Sparse-RS: a versatile framework
      for query-efficient sparse black-box adversarial attacks, AAAI 2022, arXiv
      2006.12834, algorithm 1 and section 4.
    """
    method = SparseRS(queries, restarts, alpha_init=alpha_init)
    return iterate(method, logits_fn, x, y, eps, **options)
