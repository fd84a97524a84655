"""HopSkipJump: along the decision boundary towards the image, from decisions alone."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrobust import threat
from jaxrobust._checks import Range, check_count
from jaxrobust.array_types import Images, Labels, LogitsFn, Norm, PerExample, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate, fold
from jaxrobust.attacks._options import PositiveInt, TargetOptions, shares

_DRAW_STREAM = 0x68736A
# What a row's next query is for.
_INIT, _SEARCH, _ESTIMATE, _STEP = range(4)
# A step that still fails after so many halvings had a wrong direction.
_HALVINGS = 16


class Estimate(NamedTuple):
    """Sums over the queries of an estimate; a misclassified one votes 1, others -1."""

    votes: PerExample
    total: Images
    weighted: Images  # once complete, the direction of the step


class Carry(NamedTuple):
    """State between two queries, each row at its own place in the algorithm."""

    phase: Int[Array, " B"]  # what the next query is for
    asked: Int[Array, " B"]  # queries that the phase has had
    point: Images  # misclassified: the search comes from it; then the boundary point
    length: PerExample  # between it and the image
    low: PerExample  # up to there no misclassified point is expected
    precision: PerExample  # within which the search ends
    iteration: Int[Array, " B"]  # t of algorithm 2
    estimate: Estimate
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class HopSkipJump(Smallest):
    """HopSkipJump without its arrays: a step is a query, and the start is one more."""

    random = "HopSkipJump"

    samples: int = 100
    gamma: float = 1.0

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Asks for the image itself; ends there if it is misclassified."""
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        none = jnp.zeros(x.shape[:1], jnp.int32)
        zero, blank = jnp.zeros(x.shape[:1], x.dtype), jnp.zeros_like(x)
        return Carry(
            phase=none + _INIT,
            asked=none,
            point=x,
            length=zero,
            low=zero,
            precision=zero,
            iteration=none + 1,
            estimate=Estimate(zero, blank, blank),
            nearest=Nearest.first(problem, at.fooled),
            health=Health.of(problem, at.logits),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Makes one query: each row what its phase needs, and goes on by the answer."""
        query = self._query(problem, keys, i, carry)
        fooled = evaluate(problem, query, model_keys(problem, keys, i)).fooled
        nearest = carry.nearest.or_nearer(problem, query, fooled)
        return self._answered(problem, carry, query, fooled)._replace(nearest=nearest)

    def _query(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Images:
        x, (low, high) = problem.x, problem.bounds
        phase = like(carry.phase, x)
        draws = draw(fold(keys, _DRAW_STREAM, i), x)
        first = low + (high - low) * (in_blocks(draws, carry.asked) + 1) / 2
        if problem.x_init is not None:
            first = jnp.where(like(carry.asked == 0, x), problem.x_init, first)
        probe = unit(draws, problem.norm)
        probe = like(self._probe_length(carry, x), x) * probe
        far = carry.length / jnp.sqrt(carry.iteration.astype(x.dtype))
        far = far * 0.5 ** carry.asked.astype(x.dtype)
        middle = (carry.low + carry.length) / 2
        nearer = shrunk(carry.point, x, carry.length, middle, problem.norm)
        query = jnp.select(
            [phase == _INIT, phase == _SEARCH, phase == _ESTIMATE],
            [first, nearer, carry.point + probe],
            carry.point + like(far, x) * carry.estimate.weighted,
        )
        return jnp.clip(query, low, high)

    def _answered(
        self, problem: Problem, carry: Carry, query: Images, fooled: Bool[Array, " B"]
    ) -> Carry:
        """The state after the answer, but for the nearest point."""
        length = threat.distance(query, problem.x, norm=problem.norm)
        init, search, estimate, step = (carry.phase == p for p in range(4))
        past = fooled & (init | step)
        moved = fooled & ~estimate
        new_length = jnp.where(moved, length, carry.length)
        missed = jnp.where(search & ~fooled, (carry.low + carry.length) / 2, carry.low)
        low = jnp.where(past, 0, missed)
        stuck = fooled & (length >= carry.length)  # the middle was lost in rounding
        found = search & (stuck | (new_length - low <= carry.precision))
        failed = step & ~fooled & (carry.asked + 1 >= _HALVINGS)
        wanted = self.samples * jnp.sqrt(carry.iteration.astype(length.dtype))
        full = estimate & (carry.asked + 1 >= jnp.floor(wanted))
        phase = jnp.select(
            [past, found | failed, full], [_SEARCH, _ESTIMATE, _STEP], carry.phase
        )
        theta = self._theta(query, problem.norm)
        probe = (query - carry.point) / like(self._probe_length(carry, query), query)
        sums = voted(carry.estimate, probe, fooled, estimate)
        normal = direction(sums, carry.asked + 1, problem.norm)
        sums = sums._replace(weighted=choose(full, normal, sums.weighted))
        return carry._replace(
            phase=phase,
            asked=jnp.where(phase == carry.phase, carry.asked + 1, 0),
            point=choose(moved, query, carry.point),
            length=new_length,
            low=low,
            precision=jnp.where(past, theta * length, carry.precision),
            iteration=carry.iteration + ((step & fooled) | failed),
            estimate=choose(found | failed, jax.tree.map(jnp.zeros_like, sums), sums),
        )

    def _theta(self, x: Images, norm: Norm) -> float:
        """Precision of a search as a share of the length that it starts from.

        Not below what the numbers can tell.
        """
        power = -1.5 if norm == "l2" else -2.0
        return max(self.gamma * x[0].size ** power, 8 * float(jnp.finfo(x.dtype).eps))

    def _probe_length(self, carry: Carry, x: Images) -> PerExample:
        """How far probes go: root d times the precision in L2, d times it in Linf."""
        return jnp.where(carry.length > 0, carry.length, 1) * self.gamma / x[0].size


def draw(keys: Keys, x: Images) -> Images:
    """Draws numbers between -1 and 1 of the shape of `x`, with a key per row."""
    shape = x.shape[1:]
    least = -1 + float(jnp.finfo(x.dtype).epsneg)  # whose normal draw is finite
    return jax.vmap(lambda k: jax.random.uniform(k, shape, x.dtype, least, 1.0))(keys)


def unit(draws: Images, norm: Norm) -> Images:
    """Turns draws into directions of length 1: normal ones in L2, uniform in Linf."""
    return _over_length(jax.lax.erf_inv(draws) if norm == "l2" else draws)


def _over_length(v: Images) -> Images:
    length = threat.distance(v, jnp.zeros_like(v), norm="l2")
    return threat.safe_divide(v, like(length, v))


def in_blocks(draws: Images, tries: Int[Array, " B"]) -> Images:
    """Noise of single pixels at first, then of blocks of 2, 4, 8 ..., and again."""
    if draws.ndim != 4:
        return draws
    height, width = draws.shape[1:3]
    side = jnp.left_shift(1, tries % ((max(height, width) - 1).bit_length() + 1))
    for axis, size in ((1, height), (2, width)):
        corner = jnp.arange(size)[None] // side[:, None] * side[:, None]
        corner = jnp.expand_dims(corner, (3 - axis, 3))
        draws = jnp.take_along_axis(draws, corner, axis=axis)
    return draws


def shrunk(
    point: Images, x: Images, length: PerExample, to: PerExample, norm: Norm
) -> Images:
    """Moves a point at `length` from `x` nearer: blended in L2, clipped in Linf."""
    delta, to = point - x, like(to, x)
    if norm == "linf":
        return x + jnp.clip(delta, -to, to)
    return x + delta * threat.safe_divide(to, like(length, x))


def voted(
    sums: Estimate, probe: Images, fooled: Bool[Array, " B"], rows: Bool[Array, " B"]
) -> Estimate:
    """Takes a probe into the sums of the rows that estimate."""
    vote = jnp.where(fooled, 1, -1).astype(probe.dtype)
    added = Estimate(vote, probe, like(vote, probe) * probe)
    return choose(rows, jax.tree.map(jnp.add, sums, added), sums)


def direction(sums: Estimate, count: Int[Array, " B"], norm: Norm) -> Images:
    """The estimated normal, votes taken from their mean; by its sign in Linf."""
    mean = sums.votes / count.astype(sums.votes.dtype)
    centred = sums.weighted - like(mean, sums.total) * sums.total
    # Where all vote alike nothing is left: then towards (or away from) all of them.
    alike = like(jnp.abs(sums.votes) == count, sums.total)
    v = jnp.where(alike, sums.weighted, centred)
    return jnp.sign(v) if norm == "linf" else _over_length(v)


@shares(TargetOptions)
def hop_skip_jump(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    queries: int = 10_000,
    samples: PositiveInt | None = None,
    gamma: Annotated[float, Range(0, 1e6, above=True)] = 1.0,
    x_init: Images | None = None,
    **options: Unpack[TargetOptions],
) -> Images:
    """HopSkipJump: a small perturbation from decisions (Chen, Jordan & Wainwright).

    From a misclassified noise image, in turns: a binary search towards the image for
    the boundary (algorithm 1), the boundary's normal from the decisions at random
    points nearby, and a step along it, halved until it is misclassified (algorithm
    2). Rows go through this each at its own pace, a query at a time, until the budget
    is spent.

    Other than in the paper the nearest misclassified point of all queries is returned,
    noise that is not misclassified is tried again in blocks of 2, 4, 8 ... pixels, and
    a direction that fails 16 halvings is estimated anew. Only the largest logit is
    looked at.

    Args:
      queries: all model calls per image, the one for the image itself and those of
        `eot_samples` included, never exceeded; at least `eot_samples`; static.
      norm: 'linf' or 'l2': the length that is made small.
      samples: queries of the first estimate, times root t in iteration t. None: 100 as
        in the paper, but no more than a tenth of `queries`.
      gamma: what the search's precision is multiplied by, gamma d^(-3/2) of the length
        in L2 and gamma d^(-2) in Linf, and the estimate's radius gamma / d with it.
      targeted: look for the class `y` instead. Noise is seldom of a certain class: give
        `x_init`.
      x_init: images `[B, H, W, C]` asked first in place of noise, such as ones of the
        target class.

    Reference:
      Chen, Jordan, Wainwright: HopSkipJumpAttack: a query-efficient decision-based
      attack, IEEE S&P 2020, arXiv 1904.02144, algorithms 1 and 2.
    """
    if options.get("norm") == "l1":
        raise ValueError("`norm` of hop_skip_jump must be 'linf' or 'l2', got 'l1'.")
    eot_samples = options.get("eot_samples", 1)
    check_count("queries", queries, eot_samples)
    if samples is None:
        samples = max(1, min(100, queries // eot_samples // 10))
    method = HopSkipJump(queries // eot_samples - 1, samples=samples, gamma=gamma)
    return iterate(method, logits_fn, x, y, eps, x_init=x_init, **options)
