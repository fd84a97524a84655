"""Nearest points of a hyperplane cut with the box, in the three norms, for FAB.

From a point t of the box to {z: w.z = b, low <= z <= high}. All coordinates move in
the direction that brings w.z towards b, each by m between 0 and its room to the wall,
so that sum |w| m = |w.t - b| and the norm of m is least.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import threat
from jaxrobust._shards import varied_alike
from jaxrobust.array_types import Bounds, Norm

_MAX_NEWTON = 64

Rows = Float[Array, "B d"]
Column = Float[Array, "B 1"]


def displacement(
    t: Rows, w: Rows, residual: Float[Array, " B"], *, norm: Norm, bounds: Bounds
) -> Rows:
    """Returns d such that t + d is the nearest point of hyperplane and box.

    Takes points of the box, normals of the hyperplanes (finite) and w.t - b. Where the
    box does not reach the hyperplane, the step goes into the corner nearest to it;
    coordinates whose weight is 0 stay.

    Reference:
      That of `fab`, section 2 (equations 3 and 4).
    """
    side = jnp.where(residual >= 0, 1.0, -1.0).astype(w.dtype)
    direction = -jnp.sign(w) * side[:, None]
    room = jnp.where(direction > 0, bounds[1] - t, t - bounds[0])
    room = jnp.where(direction == 0, 0, jnp.maximum(room, 0))
    # Over the largest weight, so that no gradient is too small or too large.
    largest = jnp.max(jnp.abs(w), axis=1, keepdims=True)
    weight = threat.safe_divide(jnp.abs(w), largest)
    amount = threat.safe_divide(jnp.abs(residual)[:, None], largest)
    if norm == "l1":
        return direction * _greedy(weight, room, amount)
    speed = weight if norm == "l2" else jnp.ones_like(weight)
    return direction * _waterfill(weight, speed, room, amount)


def _waterfill(weight: Rows, speed: Rows, room: Rows, amount: Column) -> Rows:
    """Solves sum weight * min(level * speed, room) = amount for the level of each row.

    The left side is concave and piecewise linear in the level, so Newton's steps from
    0 never overshoot, and stop at the solution: a few passes in place of a sort. A
    row that has stopped stays, whatever the others do.
    """
    limit = jnp.finfo(weight.dtype).max / 8

    def newton(level: Column) -> Column:
        full = room <= level * speed
        filled = jnp.sum(jnp.where(full, weight * room, 0), axis=1, keepdims=True)
        slope = jnp.sum(jnp.where(full, 0, weight * speed), axis=1, keepdims=True)
        reached = (amount - filled) / jnp.where(slope > 0, slope, 1)
        return jnp.minimum(jnp.where(slope > 0, reached, limit), limit)

    def body(state: tuple[Column, jax.Array, jax.Array]):
        level, _, count = state
        new = jnp.maximum(newton(level), level)
        return new, jnp.any(new > level), count + 1

    def go_on(state: tuple[Column, jax.Array, jax.Array]):
        return state[1] & (state[2] < _MAX_NEWTON)

    first = jnp.zeros_like(amount), jnp.bool(True), jnp.int32(0)
    first = varied_alike((first, amount, weight))[0]
    level = jax.lax.while_loop(go_on, body, first)[0]
    return jnp.where(weight > 0, jnp.minimum(level * speed, room), 0)


def _greedy(weight: Rows, room: Rows, amount: Column) -> Rows:
    """Fills coordinates in order of weight until the amount is reached.

    Searching for the weight at which that happens is quicker than a sort.
    """
    gain = weight * room

    def reached(at: jax.Array) -> jax.Array:
        heavier = jnp.where(weight >= at[:, None], gain, 0)
        return jnp.sum(heavier, axis=1) >= amount[:, 0]

    last = threat.largest_where(reached, weight[:, 0])[:, None]
    before = jnp.sum(jnp.where(weight > last, gain, 0), axis=1, keepdims=True)
    tied = jnp.where(weight == last, gain, 0)
    left = amount - before - (jnp.cumsum(tied, axis=1) - tied)
    some = jnp.clip(left / jnp.where(weight > 0, weight, 1), 0, room)
    moved = jnp.where(weight > last, room, jnp.where(weight == last, some, 0))
    return jnp.where(weight > 0, moved, 0)
