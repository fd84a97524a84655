"""HopSkipJump: along the decision boundary towards the image, from decisions alone."""

import dataclasses
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrobust import threat
from jaxrobust._checks import Range, check_count, check_number
from jaxrobust.array_types import Images, Labels, LogitsFn, Norm, PerExample, Scalar
from jaxrobust.attacks import _boundary as boundary
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate, fold
from jaxrobust.attacks._options import ModelOptions, shares

_DRAW_STREAM = 0x68736A
# What a row's next query is for.
_INIT, _SEARCH, _ESTIMATE, _STEP = range(4)
# A step that still fails after so many halvings had a wrong direction.
_HALVINGS = 16


class Carry(NamedTuple):
    """State between two queries, each row at its own place in the algorithm.

    `phase` is what the next query is for, `asked` the queries it has had. `point` is
    misclassified and at `length` from the image: what the search comes from, then the
    boundary point. No misclassified point is expected up to `low`; the search ends
    within `precision`. `iteration` is t of algorithm 2.
    """

    phase: Int[Array, " B"]
    asked: Int[Array, " B"]
    point: Images
    length: PerExample
    low: PerExample
    precision: PerExample
    iteration: Int[Array, " B"]
    estimate: boundary.Estimate
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
        del r  # the keys are its own
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
            estimate=boundary.Estimate(zero, blank, blank),
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
        phase, draws = (
            like(carry.phase, x),
            boundary.draw(fold(keys, _DRAW_STREAM, i), x),
        )
        first = low + (high - low) * (boundary.in_blocks(draws, carry.asked) + 1) / 2
        if problem.x_init is not None:
            first = jnp.where(like(carry.asked == 0, x), problem.x_init, first)
        probe = like(self._probe_length(carry, x), x) * boundary.unit(
            draws, problem.norm
        )
        far = carry.length / jnp.sqrt(carry.iteration.astype(x.dtype))
        far = far * 0.5 ** carry.asked.astype(x.dtype)
        middle = (carry.low + carry.length) / 2
        nearer = boundary.shrunk(carry.point, x, carry.length, middle, problem.norm)
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
        sums = boundary.voted(carry.estimate, probe, fooled, estimate)
        direction = boundary.direction(sums, carry.asked + 1, problem.norm)
        sums = sums._replace(weighted=choose(full, direction, sums.weighted))
        return carry._replace(
            phase=phase,
            asked=jnp.where(phase == carry.phase, carry.asked + 1, 0),
            point=choose(moved, query, carry.point),
            length=new_length,
            low=low,
            precision=jnp.where(past, theta * length, carry.precision),
            iteration=carry.iteration + ((step & fooled) | failed),
            estimate=jax.tree.map(
                lambda v: jnp.where(like(found | failed, v), 0, v), sums
            ),
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


@shares(ModelOptions)
def hop_skip_jump(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None,
    queries: int = 10_000,
    norm: Norm = "linf",
    samples: int | None = None,
    gamma: float = 1.0,
    targeted: bool = False,
    x_init: Images | None = None,
    **options: Unpack[ModelOptions],
) -> Images:
    """HopSkipJump: a small perturbation from decisions (Chen, Jordan & Wainwright).

    From a misclassified noise image, in turns: a binary search towards the image for
    the boundary (algorithm 1), the boundary's normal from the decisions at random
    points nearby, and a step along it, halved until it is misclassified (algorithm
    2). Rows go through this each at its own pace, a query at a time, until the budget
    is spent.

    Other than in the paper the nearest misclassified point of all queries is returned,
    noise that is not misclassified is tried again in blocks of 2, 4, 8 ... pixels, and
    a direction that fails 16 halvings is estimated anew.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
        Only called, never differentiated, and only the largest logit is looked at.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: labels `[B]`; the target classes where `targeted`. An image that is
        misclassified already (that is of its target) is returned as it is.
      eps: radius up to which a perturbation counts; None: any. May be traced.
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
      **options: shared by all attacks.

    Returns:
      Shape and dtype of `x`, in the box: the nearest misclassified point found where
      it is within `eps`, else the image. No gradient flows.

    Reference:
      Chen, Jordan, Wainwright: HopSkipJumpAttack: a query-efficient decision-based
      attack, IEEE S&P 2020, arXiv 1904.02144, algorithms 1 and 2.
    """
    if norm == "l1":
        raise ValueError("`norm` of hop_skip_jump must be 'linf' or 'l2', got 'l1'.")
    check_number("gamma", gamma, Range(0, 1e6, above=True))
    eot_samples = options.get("eot_samples", 1)
    check_count("queries", queries, eot_samples)
    if samples is None:
        samples = max(1, min(100, queries // eot_samples // 10))
    method = HopSkipJump(queries // eot_samples - 1, samples=samples, gamma=gamma)
    fields = {"norm": norm, "targeted": targeted, "x_init": x_init, **options}
    return iterate(method, logits_fn, x, y, eps, **fields)
