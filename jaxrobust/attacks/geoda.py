"""GeoDA: the normal of the boundary from decisions, and from the image along it."""

import dataclasses
from typing import Annotated, Any, NamedTuple, Unpack

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrobust import threat
from jaxrobust._checks import Range, check_count
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._decisions import Sought, seek
from jaxrobust.attacks._descent import width
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate, fold
from jaxrobust.attacks._options import ModelOptions, PositiveInt, shares
from jaxrobust.attacks._waves import low_noise

# Of fewer waves no normal of a small image can be made.
_FEWEST_WAVES = 14
_DRAW_STREAM = 0x67656F
# What a row's next query is for.
_SEARCH, _ESTIMATE, _STEP = range(3)
# Each point along the normal is so many times as far as the one before.
_FARTHER, _FARTHEST = 1.2, 20


class Carry(NamedTuple):
    """State between two queries, each row at its own place in the algorithm."""

    sought: Sought  # the first point, on the way to which a row may still be
    phase: Int[Array, " B"]
    asked: Int[Array, " B"]  # queries that the phase has had
    iteration: Int[Array, " B"]
    way: Images  # from the image to a misclassified point
    low: PerExample  # shares of the way: here the class is right,
    high: PerExample  # and here wrong
    normal: Images  # sum of all probes, each by its vote
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class GeoDA(Smallest):
    """GeoDA without its arrays: a step is a query, and the start is one more."""

    norms = ("l2", "linf")
    random = "GeoDA"

    samples: int = 60
    growth: float = 1.4
    sigma: float = 1e-3
    share: float = 1 / 3

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Asks for the image itself; ends there if it is misclassified."""
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        none, blank = jnp.zeros(x.shape[:1], jnp.int32), jnp.zeros_like(x)
        zero = jnp.zeros(x.shape[:1], x.dtype)
        return Carry(
            sought=Sought.first(problem),
            phase=none + _SEARCH,
            asked=none,
            iteration=none,
            way=blank,
            low=zero,
            high=zero + 1,
            normal=blank,
            nearest=Nearest.first(problem, at.fooled),
            health=Health.of(problem, at.logits),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Makes one query: each row what its phase needs, and goes on by the answer."""
        x, drawn, found = problem.x, fold(keys, _DRAW_STREAM, i), carry.sought.found
        boundary = x + like(carry.high, x) * carry.way
        probe = self.sigma * width(problem) * low_noise(drawn, x, self.share)
        query = jnp.select(
            [like(carry.phase == p, x) for p in (_SEARCH, _ESTIMATE)],
            [x + like((carry.low + carry.high) / 2, x) * carry.way, boundary + probe],
            x + self._ahead(problem, carry),
        )
        query = choose(found, query, seek(problem, carry.sought, drawn))
        query = jnp.clip(query, *problem.bounds)
        fooled = evaluate(problem, query, model_keys(problem, keys, i)).fooled
        sought = choose(found, carry.sought, carry.sought.after(problem, query, fooled))
        begun = carry._replace(way=sought.start - x, low=sought.low, high=sought.high)
        went_on = self._answered(problem, carry, query, query - boundary, fooled)
        nearest = carry.nearest.or_nearer(problem, query, fooled)
        return choose(found, went_on, begun)._replace(sought=sought, nearest=nearest)

    def _ahead(self, problem: Problem, carry: Carry) -> Images:
        """As far along the normal as the boundary is, and farther at each attempt."""
        normal, nothing = carry.normal, jnp.zeros_like(carry.normal)
        length = threat.distance(carry.way, nothing, norm=problem.norm) * carry.high
        length = length * _FARTHER ** carry.asked.astype(length.dtype)
        if problem.norm == "linf":
            return like(length, normal) * jnp.sign(normal)
        size = threat.distance(normal, nothing, norm="l2")
        return like(threat.safe_divide(length, size), normal) * normal

    def _answered(
        self,
        problem: Problem,
        carry: Carry,
        query: Images,
        probe: Images,
        fooled: Bool[Array, " B"],
    ) -> Carry:
        """The state after the answer in a row that is at the boundary."""
        search, estimate, step = (carry.phase == p for p in range(3))
        middle = (carry.low + carry.high) / 2
        missed = jnp.where(search & ~fooled, middle, carry.low)
        high = jnp.where(search & fooled, middle, carry.high)
        size = threat.distance(carry.way, jnp.zeros_like(query), norm="l2")
        near = (high - missed) * size <= self.sigma * width(problem) / 2
        at_boundary = search & (near | (carry.asked >= _FARTHEST))
        past = step & fooled
        again = step & ~fooled & (carry.asked + 1 >= _FARTHEST)
        rounds = carry.iteration.astype(size.dtype)
        full = estimate & (carry.asked + 1 >= self.samples * self.growth**rounds)
        kinds = [past, at_boundary | again, full]
        phase = jnp.select(kinds, [_SEARCH, _ESTIMATE, _STEP], carry.phase)
        vote = jnp.where(fooled, 1, -1) * estimate / (self.sigma * width(problem))
        return carry._replace(
            phase=phase,
            asked=jnp.where(phase == carry.phase, carry.asked + 1, 0),
            iteration=carry.iteration + full,
            way=choose(past, query - problem.x, carry.way),
            # Nearer points along the normal, if any, were right.
            low=jnp.where(past, jnp.where(carry.asked > 0, 1 / _FARTHER, 0), missed),
            high=jnp.where(past, 1, high),
            normal=carry.normal + like(vote, probe).astype(probe.dtype) * probe,
        )

    def done(self, carry: Carry) -> Bool[Array, " B"]:
        """Rows whose image needs no change."""
        return carry.nearest.distance == 0


@shares(ModelOptions, norm="l2")
def geoda(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    queries: int = 10_000,
    samples: PositiveInt = 60,
    growth: Annotated[float, Range(1, 10)] = 1.4,
    sigma: Annotated[float, Range(0, 1, above=True)] = 1e-3,
    share: Annotated[float | None, Range(0, 1, above=True)] = None,
    x_init: Images | None = None,
    **options: Unpack[ModelOptions],
) -> Images:
    """GeoDA (Rahmati et al. 2020, algorithms 1 and 2): small in L2 or Linf.

    From decisions alone. Takes the boundary for flat near the image: estimates its
    normal from the decisions at noise of low frequencies around a boundary point, goes
    from the image itself along the normal (in Linf its signs) until the class is wrong,
    finds the boundary on the way by halvings, and estimates again there; votes of all
    estimates add up. Each estimate has `growth` times the queries of the one before,
    which the paper finds to be best. Rows go through this each at its own pace.

    Other than in the authors' code the first point along the normal is as far as the
    boundary was, and each after it 1.2 times as far; a search ends within half of
    `sigma`; L1, by the largest values of the normal, is not here.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 3.0)], 1)
    >>> x, y, key = jnp.ones((1, 2, 2, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.geoda(logits_fn, x, y, key=key, queries=500)
    >>> round(float(jnp.linalg.norm(x_adv - x)), 1)  # .5 from 1 and 4 values
    0.5

    Args:
      queries: all model calls per image, the one for the image itself and those of
        `eot_samples` included, never exceeded; at least `eot_samples`; static.
      samples: queries of the first estimate.
      growth: of their number from estimate to estimate: lambda^(-2/3) of the paper.
      sigma: deviation of the noise, in units of the box's width.
      share: of the waves of either side, the lowest, that the noise is made of; 1: all.
        None: a third, as the paper, but no fewer than 14 waves a side.
      x_init: images `[B, H, W, C]` asked first in place of noise.
      norm: 'l2' or 'linf'.

    Reference:
      Rahmati, Moosavi-Dezfooli, Frossard, Dai: GeoDA: a geometric framework for
      black-box adversarial attacks, CVPR 2020, arXiv 2003.06468, algorithms 1 and 2.
    """
    eot_samples = options.get("eot_samples", 1)
    check_count("queries", queries, eot_samples)
    if share is None:
        side = min(x.shape[1:3]) if getattr(x, "ndim", 0) == 4 else 1
        share = min(1.0, max(1 / 3, _FEWEST_WAVES / side))
    own: dict[str, Any] = {
        "samples": samples,
        "growth": growth,
        "sigma": sigma,
    }
    method = GeoDA(queries // eot_samples - 1, share=share, **own)
    return iterate(method, logits_fn, x, y, eps, x_init=x_init, **options)
