"""Steps of the Brendel & Bethge attack: nearer to the image, within a plane and a ball.

From a point x, with e the way to the image, the step d is to

    minimise |e - d|_p  over  b . d = c,  |d|_2 <= r,  low <= d <= high.

With a multiplier for the plane and one for the ball what is left is a sum over single
values, each least in closed form: a value of d depends on `level`, how far the plane's
multiplier pushes it along b, and on `pull`, how much the distance counts beside the
length of d. The larger the level, the larger b . d; the larger the pull, the longer is
d. So two nested searches find both. All of it is of one row, lengths in units of the
box's width and b over its largest value.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrobust import threat
from jaxrobust.array_types import Images, Norm, PerExample
from jaxrobust.attacks._descent import width
from jaxrobust.attacks._method import like
from jaxrobust.attacks._objective import Problem

# Levels and pulls are powers of 2 between these; so many halvings of the exponents.
_LEVELS, _LEVEL_HALVINGS = (-32.0, 32.0), 25
_PULLS, _PULL_HALVINGS = (-32.0, 12.0), 18
# By how much rounding may make a step longer than the radius.
_SLACK = 1e-5

Row = Float[Array, " d"]
Number = Float[Array, ""]


class StepTask(NamedTuple):
    """One row's problem."""

    e: Row  # the way to the image
    b: Row  # normal of the plane
    c: Number
    r: Number
    low: Row
    high: Row

    def inside(self, d: Row) -> Row:
        """Moves a step into the box."""
        return jnp.clip(d, self.low, self.high)


# The step for a pull and a level, whose sign counts.
Family = Callable[[Number, Number], Row]


def nearest_in_plane(
    problem: Problem, x: Images, normal: Images, gain: PerExample, radius: jax.Array
) -> Images:
    """Goes from `x` to where the objective, if linear, gains so much.

    Of such points in the box, no farther than the radius (in units of the box's width)
    in L2, that which is nearest to the image; where there are none, towards them.
    """
    (low, high), wide = problem.bounds, width(problem)
    rows, clean, b = (v.reshape(len(x), -1) for v in (x, problem.x, normal))
    largest = jnp.max(jnp.abs(b), axis=1)
    task = StepTask(
        e=(clean - rows) / wide,
        b=threat.safe_divide(b, like(largest, b)),
        c=threat.tamed(threat.safe_divide(gain, largest * wide)),
        r=jnp.broadcast_to(radius, gain.shape),
        low=(low - rows) / wide,
        high=(high - rows) / wide,
    )
    d = jax.vmap(lambda row: step(row, problem.norm))(task)
    ahead = jnp.clip(rows + wide * d, low, high)
    return jnp.where(d == task.e, clean, ahead).reshape(x.shape)


def step(task: StepTask, norm: Norm) -> Row:
    """Returns the step d; a value that goes all the way to the image is e exactly.

    Where ball and box do not reach the plane, the step goes as far towards it as they
    let it, and the distance does not count.
    """
    none = jnp.zeros_like(task.c)
    shortest = _family(task, "l2", none)
    base, reached = _meet(task, lambda level: shortest(none, level), task.r)
    farthest = jnp.max(jnp.abs(task.e - base))
    family = _family(task, norm, farthest)

    def nearer(pull: Number) -> tuple[Row, Bool[Array, ""]]:
        d, met = _meet(task, lambda level: family(pull, level), jnp.inf)
        return d, met & (_length(d) <= task.r * (1 + _SLACK))

    pull, _ = _largest(lambda p: nearer(p)[1], _PULLS, _PULL_HALVINGS, task.c)
    d, fits = nearer(pull)
    return jnp.where(reached & fits, d, base)


def _family(task: StepTask, norm: Norm, farthest: Number) -> Family:
    """Minimisers of |e - d|_p + |d|^2 / (2 pull) - level (b . d) / pull over the box.

    Without a pull all are the shortest steps to a plane, `inside(level * b)`. In L2 it
    is the square of the distance that counts, in Linf the pull is by how much the
    distance is to be less than that of the shortest step.
    """
    e, b, inside = task.e, task.b, task.inside

    def l2(pull: Number, level: Number) -> Row:
        return inside(jnp.minimum(pull, 1) * e + level * b)

    def l1(pull: Number, level: Number) -> Row:
        return inside(jnp.clip(e, level * b - pull, level * b + pull))

    def l0(pull: Number, level: Number) -> Row:
        free = inside(level * b)
        gain = (e - free) * (e + free - 2 * level * b)
        return jnp.where(gain > 2 * pull, free, e)

    def linf(pull: Number, level: Number) -> Row:
        distance = jnp.maximum(farthest - pull, 0)
        return inside(jnp.clip(level * b, e - distance, e + distance))

    return {"l2": l2, "l1": l1, "l0": l0, "linf": linf}[norm]


def _meet(
    task: StepTask, at: Callable[[Number], Row], r: Number | float
) -> tuple[Row, Bool[Array, ""]]:
    """Goes up (or down) the levels to the plane, or as far as the radius.

    Between the last level before the plane and the first beyond, all on the line are as
    good, where values jump: there the plane is met. Returns also whether it is.
    """
    first = at(jnp.zeros_like(task.c))
    side = jnp.where(jnp.sum(task.b * first) <= task.c, 1, -1).astype(task.c.dtype)

    def lacks(d: Row) -> Number:
        return side * (task.c - jnp.sum(task.b * d))

    def before(level: Number) -> Bool[Array, ""]:
        d = at(side * level)
        return (lacks(d) > 0) & (_length(d) <= r)

    low, high = _largest(before, _LEVELS, _LEVEL_HALVINGS, task.c)
    near, far = at(side * low), at(side * high)
    # The least level of all may be too large already.
    near = jnp.where(before(low), near, first)
    missing, beyond = lacks(near), -lacks(far)
    whole = missing + beyond
    share = jnp.where(whole > 0, missing / jnp.where(whole > 0, whole, 1), 0)
    return jnp.where(beyond >= 0, near + share * (far - near), near), beyond >= 0


def _largest(
    holds: Callable[[Number], Bool[Array, ""]],
    exponents: tuple[float, float],
    halvings: int,
    like: Number,
) -> tuple[Number, Number]:
    """The largest power of 2 at which a condition holds, and the next at which not."""

    def halve(_: jax.Array, ends: tuple[Number, Number]) -> tuple[Number, Number]:
        low, high = ends
        middle = (low + high) / 2
        more = holds(jnp.exp2(middle))
        return jnp.where(more, middle, low), jnp.where(more, high, middle)

    first, last = (jnp.full_like(like, end) for end in exponents)
    low, high = jax.lax.fori_loop(0, halvings, halve, (first, last))
    return jnp.exp2(low), jnp.exp2(high)


def _length(d: Row) -> Number:
    return jnp.sqrt(jnp.sum(d * d))
