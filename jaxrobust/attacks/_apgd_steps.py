"""How APGD moves and when it changes its step: the rules of AutoAttack's reference.

Linf and L2 halve the step at checkpoints where the loss did not rise often enough; L1
makes the step sparser or shorter. Places in the schedule are static; what is decided
there is one value per row, so rows never mix and may be at different steps.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, Norm, PerExample
from jaxrobust.attacks._method import Count, like
from jaxrobust.attacks._objective import Problem

_MOMENTUM = 0.75
_LARGE_RADII = (3.0, 2.0, 1.0)
_SHORTEN, _SHORTEST = 1.5, 10.0
_DENSE_SHARE = 0.2
_TINY = 1e-12


class Ticks(NamedTuple):
    """The schedule: what happens once a point is evaluated, one entry per point."""

    first: np.ndarray  # the point starts a phase
    check: np.ndarray  # the step before was the last of a window
    most: np.ndarray  # rises of the loss up to which the step is halved there
    last: np.ndarray  # the next point starts a phase
    radius: np.ndarray  # of the phase, in units of eps


@functools.cache
def schedule(steps: int, norm: Norm, rho: float, *, large_radius: bool) -> Ticks:
    """Makes the schedule of all points but the last, which `finish` evaluates.

    With `large_radius`, three phases of 30, 30 and 40 % of the steps at 3, 2 and 1
    eps; a phase of n steps has n + 1 points.
    """
    radii, counts = (1.0,), (steps,)
    if large_radius:
        share = math.ceil(0.3 * steps)
        second = min(share, steps - share)
        radii, counts = _LARGE_RADII, (share, second, steps - share - second)
    rows: list[tuple[bool, bool, int, bool, float]] = []
    for radius, count in zip(radii, counts, strict=True):
        windows = _windows(count, norm)
        for place in range(count + 1):
            most = math.floor(np.float32(rho * windows.get(place, 0)))
            last = place == count
            rows.append((place == 0, place in windows, most, last, radius))
    columns = zip(*rows[:-1], strict=True) if len(rows) > 1 else [[]] * 5
    types = (bool, bool, np.int32, bool, np.float32)
    return Ticks(*(np.asarray(c, t) for c, t in zip(columns, types, strict=True)))


def _windows(steps: int, norm: Norm) -> dict[int, int]:
    """Number of steps made at each checkpoint, with the length of the window."""
    window, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    if norm == "l1":
        window, shrink, least = max(int(0.04 * steps), 1), 0, 1
    ends, made = {}, window
    while made <= steps:
        ends[made] = window
        window = max(window - shrink, least)
        made += window
    return ends


class Now(NamedTuple):
    """What the schedule says of the points just evaluated, scalars or one per row."""

    first: jax.Array
    check: jax.Array
    most: jax.Array
    last: jax.Array
    eps: Any  # of the phase
    next_eps: Any

    @classmethod
    def at(cls, ticks: Ticks, i: Count, problem: Problem) -> "Now":
        """Looks step i up."""
        first, check, most, last = (jnp.asarray(c)[i] for c in ticks[:4])
        eps = next_eps = jnp.asarray(problem.eps, problem.x.dtype)
        if ticks.last.any():
            after = np.append(ticks.radius[1:], np.float32(1))
            radius, next_radius = (
                jnp.asarray(c, eps.dtype)[i] for c in (ticks.radius, after)
            )
            eps, next_eps = radius * eps, next_radius * eps
        return cls(first, check, most, last, eps, next_eps)


class Halving(NamedTuple):
    """What Linf and L2 remember between checkpoints."""

    x_old: Images
    last_loss: PerExample  # after the last step; 0 before the first, as the reference
    rises: jax.Array  # steps of the window after which the loss was higher
    reduced: jax.Array  # at the last checkpoint
    best_at_check: PerExample


class Sparsity(NamedTuple):
    """What L1 remembers between checkpoints."""

    nonzero: jax.Array  # coordinates in which the best point differed from the image
    rank: jax.Array  # coordinates whose gradient is smaller than this many stay


Pace = Halving | Sparsity


def start_pace(problem: Problem, x: Images, *, given: jax.Array | bool) -> Pace:
    """The pace at the first point; `given` where it is not a random one."""
    zero = jnp.zeros_like(problem.y, jnp.int32)
    if problem.norm == "l1":
        nonzero, rank = _sparsity(problem, x)
        # A start at the image itself says nothing about how many coordinates to move.
        given = given & (nonzero > 0)
        size = math.prod(x.shape[1:])
        dense = int((x.dtype.type(1) - x.dtype.type(_DENSE_SHARE)) * x.dtype.type(size))
        return Sparsity(
            jnp.where(given, nonzero, size),
            jnp.where(given, rank, min(dense, size - 1)),
        )
    nothing = jnp.zeros_like(x, shape=x.shape[:1])
    return Halving(x, nothing, zero, zero == 0, nothing)


def check_pace(
    problem: Problem,
    pace: Pace,
    now: Now,
    step_size: PerExample,
    x_best: Images,
    loss: PerExample,
    loss_best: PerExample,
) -> tuple[Pace, PerExample, jax.Array]:
    """Counts the evaluated point; at a checkpoint decides about the step.

    Returns the pace, the step size, and which rows go back to their best point.
    """
    if isinstance(pace, Sparsity):
        nonzero, rank = _sparsity(problem, x_best)
        back = now.check & (20 * nonzero < 19 * pace.nonzero)
        shorter = jnp.maximum(step_size / _SHORTEN, now.eps / _SHORTEST)
        step_size = jnp.where(now.check, jnp.where(back, now.eps, shorter), step_size)
        nonzero = jnp.where(now.check, nonzero, pace.nonzero)
        return Sparsity(nonzero, jnp.where(now.check, rank, pace.rank)), step_size, back
    rises = pace.rises + (~now.first & (loss > pace.last_loss))
    halve = now.check & (
        (rises <= now.most) | (~pace.reduced & (pace.best_at_check >= loss_best))
    )
    pace = Halving(
        pace.x_old,
        jnp.where(now.first, pace.last_loss, loss),
        jnp.where(now.check, 0, rises),
        jnp.where(now.check, halve, pace.reduced),
        jnp.where(now.check, loss_best, pace.best_at_check),
    )
    return pace, jnp.where(halve, step_size / 2, step_size), halve


def move(
    problem: Problem, pace: Pace, now: Now, x: Images, grad: Images, step: PerExample
) -> tuple[Images, Pace]:
    """Makes one step from `x`, into the ball of the next point and the box."""
    if isinstance(pace, Sparsity):
        return _sparse_step(x, grad, step, pace.rank), pace
    grad = jnp.nan_to_num(grad)
    grad = _unit(grad, "l2") if problem.norm == "l2" else _signs(grad, now.eps)
    moved = into(problem, x + like(step, x) * grad, now.eps)
    share = threat.per_row(jnp.where(now.first, 1.0, _MOMENTUM), x)
    moved = x + share * (moved - x) + (1 - share) * (x - pace.x_old)
    return moved, pace._replace(x_old=x)


def row_radius(eps: Any) -> Any:
    """The largest radius of each row, where there is one per channel or value."""
    return eps if eps.ndim < 2 else jnp.max(eps, axis=tuple(range(1, eps.ndim)))


def _signs(grad: Images, eps: Any) -> Images:
    """Signs; with radii per value each by its share of the row's largest."""
    if eps.ndim < 2:
        return jnp.sign(grad)
    return jnp.sign(grad) * threat.safe_divide(eps, like(row_radius(eps), grad))


def start_point(problem: Problem, keys: Key, eps: Any) -> Images:
    """Draws a start: on the sphere in Linf and L2, a projected Gaussian in L1."""
    x = problem.x
    width = problem.bounds[1] - problem.bounds[0]

    def draw(key: Key) -> jax.Array:
        if problem.norm == "linf":
            return jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0)
        return jax.random.normal(key, x.shape[1:], x.dtype)

    t = jax.vmap(draw)(keys)
    if problem.norm == "l1":
        return into(problem, x + width * t, eps)
    return into(problem, x + threat.per_row(eps, x) * _unit(t, problem.norm), eps)


def _unit(v: Images, norm: Norm) -> Images:
    length = threat.distance(v, jnp.zeros_like(v), norm=norm)
    return v / like(length + _TINY, v)


def into(problem: Problem, x: Images, eps: Any) -> Images:
    """Projects into ball and box.

    In L2 by the reference's quotient first, which differs from the exact one in the
    12th digit: its DLR runs are chaotic, and end elsewhere without it.
    """
    if problem.norm == "l2":
        delta = x - problem.x
        length = threat.distance(x, problem.x, norm="l2")
        radius = jnp.minimum(eps, length)
        x = problem.x + delta * like(radius / (length + _TINY), x)
    return problem.project(x, eps)


def _sparse_step(x: Images, grad: Images, step: PerExample, rank: jax.Array) -> Images:
    """Moves the coordinates of the largest gradients, all by the same amount."""
    rows = jnp.nan_to_num(grad).reshape(x.shape[0], -1)
    size = jnp.abs(rows)
    sign = jnp.where(size >= _ranked(size, rank)[:, None], jnp.sign(rows), 0)
    count = jnp.sum(jnp.abs(sign), axis=1, keepdims=True)
    return x + (step[:, None] * sign / (count + 1e-10)).reshape(x.shape)


def _ranked(size: Float[Array, "B d"], rank: jax.Array) -> PerExample:
    """The value of each row that `rank` others come before in ascending order."""
    return threat.largest_where(
        lambda t: jnp.sum(size < t[:, None], axis=1, dtype=jnp.int32) <= rank,
        size[:, 0],
    )


def _sparsity(problem: Problem, x: Images) -> Sparsity:
    moved = jnp.sum(x != problem.x, axis=tuple(range(1, x.ndim)), dtype=jnp.int32)
    ranks = _ranks(math.prod(x.shape[1:]), x.dtype.name)
    # Looked up by comparing: explicit meshes refuse to gather at sharded places.
    places = jnp.arange(len(ranks), dtype=jnp.int32)[None]
    rank = jnp.where(places == moved[:, None], jnp.asarray(ranks)[None], 0)
    return Sparsity(moved, jnp.sum(rank, axis=1, dtype=jnp.int32))


@functools.cache
def _ranks(size: int, dtype: str) -> np.ndarray:
    """For each number of moved coordinates, how many are to stay.

    A table, since XLA rounds the reference's quotients in another way, and one
    coordinate more or less is another trajectory.
    """
    one = np.dtype(dtype).type(1)
    share = np.arange(size + 1, dtype=dtype) / (size * one) / (one * 1.5)
    return np.clip((one - share) * (size * one), 0, size - 1).astype(np.int32)
