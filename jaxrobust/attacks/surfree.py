"""SurFree: turns around the image towards it, in random planes, from decisions."""

import dataclasses
import math
from typing import Annotated, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxrobust import threat
from jaxrobust._checks import Range, check_count
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._decisions import Sought, seek
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate, fold
from jaxrobust.attacks._options import PositiveInt, TargetOptions, shares
from jaxrobust.attacks._waves import synthesised, transformed

_DRAW_STREAM = 0x737266
# What a row's next query is for.
_SIGN, _FARTHER, _SEARCH = range(3)
_HALVINGS = 10


class Arc(NamedTuple):
    """A row's search for an angle in the plane of its point and a direction."""

    phase: Int[Array, " B"]
    asked: Int[Array, " B"]
    low: PerExample  # an angle at which the class is wrong,
    high: PerExample  # and one, farther, at which it is right
    widest: PerExample  # the first angle that is tried


class Carry(NamedTuple):
    """State between two queries, each row at its own place in the algorithm."""

    sought: Sought  # the first point, on the way to which a row may still be
    point: Images  # at the boundary: angle 0
    direction: Images  # of length 1, across the way to the point
    before: Array  # the last directions, [B, n, values]
    turns: Int[Array, " B"]
    turn: Arc
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class SurFree(Smallest):
    """SurFree without its arrays: a step is a query, and the start is one more."""

    norms = ("l2",)
    random = "SurFree"

    angle: float = math.radians(30)
    tries: int = 3
    rho: float = 0.98
    gamma: float = 0.01
    memory: int = 100
    basis: str = "dct"

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Asks for the image itself; ends there if it is misclassified."""
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        none, zero = (jnp.zeros(x.shape[:1], kind) for kind in (jnp.int32, x.dtype))
        turn = Arc(none + _SIGN, none, zero, zero, zero + self.angle)
        # Across more directions than half of the values few would be left.
        memory = max(1, min(self.memory, x[0].size // 2))
        before = jnp.zeros((len(x), memory, x[0].size), x.dtype)
        nearest = Nearest.first(problem, at.fooled)
        health = Health.of(problem, at.logits)
        return Carry(
            Sought.first(problem), x, 0 * x, before, none, turn, nearest, health
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Makes one query: on the way to a first point, or at an angle."""
        x, drawn, found = problem.x, fold(keys, _DRAW_STREAM, i), carry.sought.found
        angle = self._angle(carry.turn)
        query = choose(
            found,
            _turned(problem, carry, angle),
            seek(problem, carry.sought, drawn),
        )
        fooled = evaluate(problem, query, model_keys(problem, keys, i)).fooled
        nearest = carry.nearest.or_nearer(problem, query, fooled)
        sought = choose(found, carry.sought, carry.sought.after(problem, query, fooled))
        turn, ends = self._answered(carry.turn, angle, fooled)
        turn = choose(found, turn, carry.turn)
        ends &= found
        point = choose(ends, _turned(problem, carry, turn.low), carry.point)
        begins = sought.found & ~found
        point = choose(begins, x + like(sought.high, x) * (sought.start - x), point)
        fresh = begins | (found & (turn.phase == _SIGN) & (turn.asked == 0))
        row, place = jnp.arange(len(x)), carry.turns % carry.before.shape[1]
        kept = carry.direction.reshape(len(x), -1)
        kept = jnp.where(fresh[:, None], kept, carry.before[row, place])
        before = carry.before.at[row, place].set(kept)
        made = self._across(drawn, x, point - x, before)
        return Carry(
            sought,
            point,
            choose(fresh, made, carry.direction),
            before,
            carry.turns + fresh,
            turn,
            nearest,
            carry.health,
        )

    def _angle(self, turn: Arc) -> PerExample:
        """The next angle: to both sides, the widest first, then where it is sought."""
        share = 1 - (turn.asked // 2) / self.tries
        first = turn.widest * share * (1 - 2 * (turn.asked % 2))
        beyond = turn.low + jnp.sign(turn.low) * turn.widest / self.tries
        middle = (turn.low + turn.high) / 2
        kinds = [turn.phase == _SIGN, turn.phase == _FARTHER]
        return jnp.select(kinds, [first, beyond], middle).astype(turn.low.dtype)

    def _answered(
        self, turn: Arc, angle: PerExample, fooled: Bool[Array, " B"]
    ) -> tuple[Arc, Bool[Array, " B"]]:
        """The state after the answer, and where the angle has been found."""
        sign, farther, search = (turn.phase == p for p in range(3))
        low = jnp.where(fooled, angle, turn.low)
        beyond = angle + jnp.sign(angle) * turn.widest / self.tries
        high = jnp.where((sign | farther) & fooled, beyond, turn.high)
        high = jnp.where(~sign & ~fooled, angle, high)
        # A turn of a right angle would end at the image.
        goes_on = fooled & (jnp.abs(beyond) < jnp.pi / 2)
        farther_next = goes_on & ((sign & (turn.asked < 2)) | farther)
        known = (sign & fooled) | farther | search
        known &= ~farther_next
        near = jnp.abs(jnp.cos(low) - jnp.cos(high)) <= self.gamma
        ends = known & (near | (search & (turn.asked + 1 >= _HALVINGS)))
        vain = sign & ~fooled & (turn.asked + 1 >= 2 * self.tries)
        phase = jnp.select(
            [ends | vain, farther_next, known], [_SIGN, _FARTHER, _SEARCH], turn.phase
        )
        stays = (phase == turn.phase) & ~ends & ~vain
        factor = jnp.where(ends, 1 / self.rho, jnp.where(vain, self.rho, 1))
        widest = jnp.minimum(turn.widest * factor, jnp.pi / 2).astype(low.dtype)
        asked = jnp.where(stays, turn.asked + 1, 0)
        return Arc(phase, asked, low, high, widest), ends

    def _across(self, keys: Keys, x: Images, away: Images, before: Array) -> Images:
        """Draws a direction across `away`, and across those before."""
        if self.basis == "dct":
            signs = jax.vmap(lambda k: jax.random.randint(k, x.shape[1:], -1, 2))(keys)
            tall, wide = (np.arange(n) / n for n in x.shape[1:3])
            low = (tall[:, None] + wide[None] < 1)[None, :, :, None]
            weights = jnp.where(low, jnp.tanh(transformed(x)), 0)
            # An image of one colour has one wave, and one direction would be few.
            flat = jnp.sum(weights != 0, axis=(1, 2, 3)) < 2
            weights = choose(flat, jnp.where(low, jnp.ones_like(x), 0), weights)
            way = synthesised(weights * signs.astype(x.dtype))
        else:
            way = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)
        rows, u = way.reshape(len(x), -1), _unit(away.reshape(len(x), -1))
        inner = jnp.einsum("bnd,bd->bn", before, rows)
        rows = rows - jnp.einsum("bn,bnd->bd", inner, before)
        rows = rows - jnp.sum(rows * u, axis=1, keepdims=True) * u
        return _unit(rows).reshape(x.shape)

    def done(self, carry: Carry) -> Bool[Array, " B"]:
        """Rows whose image needs no change."""
        return carry.nearest.distance == 0


def _turned(problem: Problem, carry: Carry, angle: PerExample) -> Images:
    """The point on the circle through point and image, at an angle to the image."""
    x, away = problem.x, carry.point - problem.x
    length = like(threat.distance(away, jnp.zeros_like(away), norm="l2"), x)
    cos, sin = like(jnp.cos(angle), x), like(jnp.sin(angle), x)
    moved = x + cos * (cos * away + sin * length * carry.direction)
    return jnp.clip(moved, *problem.bounds)


def _unit(rows: Array) -> Array:
    length = jnp.sqrt(jnp.sum(rows * rows, axis=1, keepdims=True))
    return threat.safe_divide(rows, length)


@shares(TargetOptions, norm="l2")
def surfree(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    queries: int = 10_000,
    angle: Annotated[float, Range(0, 90, above=True)] = 30.0,
    tries: PositiveInt = 3,
    rho: Annotated[float, Range(0, 1, above=True)] = 0.98,
    gamma: Annotated[float, Range(0, 1)] = 0.01,
    memory: PositiveInt = 100,
    basis: Literal["dct", "normal"] = "dct",
    x_init: Images | None = None,
    **options: Unpack[TargetOptions],
) -> Images:
    """SurFree (Maho et al. 2021, algorithm 1): small in L2, from decisions.

    From a misclassified noise image, brought to the boundary by halvings: each turn
    takes a random direction across the way to the boundary point, and looks on the
    circle through image and point in that plane for an angle at which the class is
    wrong, to both sides, widest first. If there is one, farther angles and halvings
    find the boundary on the circle, which is nearer by the angle's cosine. Rows go
    through this each at its own pace, a query at a time, until the budget is spent.

    Other than in the authors' code only the side on which the class was wrong is
    searched, waves are of the whole image, not of blocks of 8 by 8, and directions are
    across the present way to the point, not the first one.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 12.0)], 1)
    >>> x, y, key = jnp.ones((1, 4, 4, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.surfree(logits_fn, x, y, key=key, queries=500, basis="normal")
    >>> round(float(jnp.linalg.norm(x_adv - x)), 1)  # 1 from 4 and 16 values
    1.0

    Args:
      queries: all model calls per image, the one for the image itself and those of
        `eot_samples` included, never exceeded; at least `eot_samples`; static.
      angle: the first that is tried, in degrees; `rho` times as much after a turn in
        vain, over `rho` after another.
      tries: angles to each side; static.
      rho: see `angle`.
      gamma: a search ends once the cosines of its angles are so near.
      memory: of how many directions before a new one is across, at most half of the
        image's values; each takes the memory of an image; static.
      basis: directions are waves of the image's lower half of frequencies, by their
        tanh, each with sign 1, 0 or -1 ('dct', images alone); or normal noise.
      targeted: look for the class `y` instead. Noise is seldom of a certain class: give
        `x_init`.
      x_init: images `[B, H, W, C]` asked first in place of noise.
      norm: 'l2'; the attack has no other.

    Reference:
      Maho, Furon, Le Merrer: SurFree: a fast surrogate-free black-box attack, CVPR
      2021, arXiv 2011.12807, algorithm 1 and section 5.
    """
    eot_samples = options.get("eot_samples", 1)
    check_count("queries", queries, eot_samples)
    own = {"tries": tries, "rho": rho, "gamma": gamma, "memory": memory}
    # Waves need the sides of an image.
    own["basis"] = basis if getattr(x, "ndim", 4) == 4 else "normal"
    method = SurFree(queries // eot_samples - 1, angle=math.radians(angle), **own)
    return iterate(method, logits_fn, x, y, eps, x_init=x_init, **options)
