"""The boundary attack: a random walk along the boundary, from decisions alone."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxrobust import threat
from jaxrobust._checks import Range, check_count
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._decisions import Sought, seek
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate, fold
from jaxrobust.attacks._options import TargetOptions, shares

_DRAW_STREAM = 0x626E64
# After so many answers of a kind a step is made longer or shorter.
_SPHERE_ANSWERS, _STEP_ANSWERS = 100, 30
# Of so many walking queries one asks for the point on the sphere alone.
_TURN = 11


class Answers(NamedTuple):
    """How many answers there were, and how many were misclassified, `[B]` each."""

    asked: Int[Array, " B"]
    hits: Int[Array, " B"]

    def after(self, counts: jax.Array, fooled: jax.Array) -> "Answers":
        """Takes an answer in, of rows in which it counts."""
        return Answers(self.asked + counts, self.hits + (counts & fooled))

    def change(self, most: int, low: float, high: float) -> tuple[jax.Array, "Answers"]:
        """Once there are enough: -1 for too few hits, 1 for many, and begins again."""
        full = self.asked >= most
        share = self.hits / jnp.maximum(self.asked, 1)
        change = jnp.where(share > high, 1, jnp.where(share < low, -1, 0))
        rest = Answers(*(jnp.where(full, 0, number) for number in self))
        return jnp.where(full, change, 0), rest


class Carry(NamedTuple):
    """State between two queries."""

    sought: Sought  # the first point, on the way to which a row may still be
    sphere: PerExample  # length of steps around the image, over the distance
    inward: PerExample  # and towards it
    turn: Int[Array, " B"]
    on_sphere: Answers
    steps: Answers
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Boundary(Smallest):
    """The boundary attack without its arrays: a step is a query; one more at first."""

    norms = ("l2",)
    random = "the boundary attack"

    sphere: float = 0.01
    inward: float = 0.01
    adaptation: float = 1.5

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Asks for the image itself; ends there if it is misclassified."""
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        none = jnp.zeros(x.shape[:1], jnp.int32)
        one = jnp.ones(x.shape[:1], x.dtype)
        return Carry(
            sought=Sought.first(problem),
            sphere=self.sphere * one,
            inward=self.inward * one,
            turn=none,
            on_sphere=Answers(none, none),
            steps=Answers(none, none),
            nearest=Nearest.first(problem, at.fooled),
            health=Health.of(problem, at.logits),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Makes one query: for a first point, on the sphere, or towards the image."""
        drawn = fold(keys, _DRAW_STREAM, i)
        walks = carry.sought.found
        first = seek(problem, carry.sought, drawn)
        around, nearer = self._proposals(problem, drawn, carry)
        sphere_only = walks & (carry.turn % _TURN == _TURN - 1)
        steps = walks & ~sphere_only
        query = choose(steps, nearer, choose(sphere_only, around, first))
        fooled = evaluate(problem, query, model_keys(problem, keys, i)).fooled
        nearest = carry.nearest.or_nearer(problem, query, fooled & ~sphere_only)
        sought = choose(walks, carry.sought, carry.sought.after(problem, query, fooled))
        on_sphere = carry.on_sphere.after(sphere_only, fooled)
        both, on_sphere = on_sphere.change(_SPHERE_ANSWERS // _TURN, 0.2, 0.5)
        own, step_answers = carry.steps.after(steps, fooled).change(
            _STEP_ANSWERS, 0.1, 0.25
        )
        factor = jnp.asarray(self.adaptation, query.dtype)
        return Carry(
            sought=sought,
            sphere=carry.sphere * factor**both,
            inward=carry.inward * factor ** (both + own),
            turn=carry.turn + walks,
            on_sphere=on_sphere,
            steps=step_answers,
            nearest=nearest,
            health=carry.health,
        )

    def _proposals(
        self, problem: Problem, keys: Keys, carry: Carry
    ) -> tuple[Images, Images]:
        """A point as far from the image as the best, and one that is nearer."""
        x, best = problem.x, carry.nearest.x
        away = best - x
        length = jnp.where(
            jnp.isfinite(carry.nearest.distance), carry.nearest.distance, 0
        )
        unit = threat.safe_divide(away, like(length, x))
        draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))
        eta, axes = draw(keys), tuple(range(1, x.ndim))
        eta = eta - like(jnp.sum(eta * unit, axis=axes), x) * unit
        size = threat.distance(eta, jnp.zeros_like(eta), norm="l2")
        eta = eta * like(threat.safe_divide(carry.sphere * length, size), x)
        around = x + (away + eta) / like(jnp.sqrt(1 + carry.sphere**2), x)
        around = jnp.clip(around, *problem.bounds)
        now = threat.distance(around, x, norm="l2")
        # A step of this share of the distance, and what is off the sphere by rounding.
        inward = jnp.maximum(carry.inward * length + now - length, 0)
        nearer = around + like(threat.safe_divide(inward, now), x) * (x - around)
        return around, jnp.clip(nearer, *problem.bounds)

    def done(self, carry: Carry) -> jax.Array:
        """Rows whose image needs no change."""
        return carry.nearest.distance == 0


@shares(TargetOptions, norm="l2")
def boundary(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    queries: int = 25_000,
    sphere: Annotated[float, Range(0, 10, above=True)] = 0.01,
    inward: Annotated[float, Range(0, 1, above=True)] = 0.01,
    adaptation: Annotated[float, Range(1, 100)] = 1.5,
    x_init: Images | None = None,
    **options: Unpack[TargetOptions],
) -> Images:
    """Boundary attack (Brendel et al. 2018, algorithm 1): small in L2, from decisions.

    From a misclassified noise image, brought near the boundary by halvings, a random
    walk: each step goes around the image at random, by `sphere` times the distance, and
    `inward` times the distance towards it; the point is taken if it is misclassified
    and nearer. One query in eleven asks for the point before the step inward. Of these,
    if more than half (less than a fifth) are misclassified both lengths grow (fall) by
    `adaptation`; of the others, if more than a quarter (less than a tenth) are, the
    second does: Foolbox's rule, of whole windows of 9 and 30 answers here.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 3.0)], 1)
    >>> x, y, key = jnp.ones((1, 2, 2, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.boundary(logits_fn, x, y, key=key, queries=1000)
    >>> round(float(jnp.linalg.norm(x_adv - x)), 1)  # .5 from 1 and 4 values
    0.5

    Args:
      queries: all model calls per image, the one for the image itself and those of
        `eot_samples` included, never exceeded; at least `eot_samples`; static.
      sphere: length of the first steps around the image, over the distance.
      inward: length of the first steps towards it, over the distance.
      adaptation: what lengths are multiplied or divided by, at least 1.
      targeted: look for the class `y` instead. Noise is seldom of a certain class: give
        `x_init`.
      x_init: images `[B, H, W, C]` asked first in place of noise.
      norm: 'l2'; the attack has no other.

    Reference:
      Brendel, Rauber, Bethge: Decision-based adversarial attacks: reliable attacks
      against black-box machine learning models, ICLR 2018, arXiv 1712.04248,
      algorithm 1 and section 2.
    """
    eot_samples = options.get("eot_samples", 1)
    check_count("queries", queries, eot_samples)
    method = Boundary(
        queries // eot_samples - 1,
        sphere=sphere,
        inward=inward,
        adaptation=adaptation,
    )
    return iterate(method, logits_fn, x, y, eps, x_init=x_init, **options)
