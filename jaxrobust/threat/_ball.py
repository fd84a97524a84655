"""The ball of a norm cut with the box: projections, steps, draws."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import _checks
from jaxrobust.array_types import Bounds, Images, Key, Norm, PerExample
from jaxrobust.threat import _sparse
from jaxrobust.threat._precision import (
    largest_where,
    pairwise_sum,
    safe_divide,
    tamed,
    towards,
    wide_dtype,
    widened,
)

Radius = float | Float[Array, "..."]

# A step that is longer than so many times the box's diameter is cut to that.
_LONGEST_STEP = 1e3


def _check(norm: Any, bounds: object, x: Images, **radii: Any) -> None:
    _checks.check_norm(norm)
    _checks.check_bounds(bounds)
    for name, value in radii.items():
        _checks.check_radius(name, value)
        _checks.check_shape(name, value, x.shape, norm)


def distance(x_adv: Images, x: Images, *, norm: Norm) -> PerExample:
    """Returns the norm of `x_adv - x` per row, `[B]`, at least float32.

    In 'l0' the number of values that differ, in 'l0_pixels' that of pixels.
    """
    _checks.check_norm(norm)
    x_adv, x = widened(x_adv, x)
    if norm in _checks.SPARSE:
        return _sparse.changed(x_adv - x, norm)
    return _norm(_rows(x_adv - x), norm)


def project(
    x_adv: Images, x: Images, *, eps: Radius, norm: Norm, bounds: Bounds = (0.0, 1.0)
) -> Images:
    """Moves `x_adv` into the eps-ball around `x` and into the box.

    Linf, L1 and L0 give the nearest point (Euclidean) of ball and box together; L2
    scales into the ball, then clips (as AutoAttack, which also keeps both).

    Args:
      x_adv: points to move, `[B, ...]`.
      x: centres, `[B, ...]`, inside `bounds`.
      eps: radius in the units of the images, a number, `[B]`, or in Linf what
        broadcasts to the images; in L0 how many change, rounded down. May be traced.
      norm: 'linf', 'l2', 'l1', 'l0' (values) or 'l0_pixels'.
      bounds: lowest and highest value of an image.

    Returns:
      Points of the shape and dtype of `x`.

    Raises:
      ValueError: for a radius below 0, NaN or of another shape, or bounds that do not
        increase.
    """
    _check(norm, bounds, x, eps=eps)
    given, (x_adv, x) = x, widened(x_adv, x)
    radius = per_row(eps, x)
    if norm == "linf":
        wide = _round_towards(x, jnp.broadcast_to(radius, x.shape))
        narrow = _round_towards(x, jnp.broadcast_to(-radius, x.shape))
        inside = jnp.clip(x_adv, narrow, wide)
    elif norm in _checks.SPARSE:
        delta = _sparse.project(x_adv - x, x, radius, norm, bounds)
        inside = _round_towards(x, delta)
    else:
        delta, radius = _rows(x_adv - x), radius.reshape(-1, 1)
        if norm == "l2":
            delta = _scale_into_ball(delta, radius, norm)
        else:
            delta = _project_l1(delta, _rows(x), radius, bounds)
        inside = _round_towards(x, delta.reshape(x.shape))
    return towards(jnp.clip(inside, *bounds), given)


def steepest_step(
    x: Images,
    grad: Images,
    *,
    step_size: Radius,
    norm: Norm,
    bounds: Bounds = (0.0, 1.0),
) -> Images:
    """Moves `x` by `step_size` along the steepest ascent direction of the norm.

    Linf: the sign of the gradient. L2: the gradient over its length. L1: coordinates
    in order of |gradient|, each moved as far as the box lets it, until the length is
    used up, so that on a linear function one step is the best point of ball and box.
    A zero gradient does not move; NaN entries count as zero.

    Raises:
      ValueError: for the norms 'l0' and 'l0_pixels', in which no step has a length.
    """
    _checks.check_norm(norm, _checks.NORMS)
    _check(norm, bounds, x, step_size=step_size)
    given, (x, grad) = x, widened(x, grad)
    grad = tamed(grad)
    longest = _LONGEST_STEP * covering_radius(norm, math.prod(x.shape[1:]), bounds)
    step = jnp.minimum(per_row(step_size, x), longest)
    if norm == "linf":
        return towards(x + step * jnp.sign(grad), given)
    rows = _rows(grad)
    if norm == "l2":
        # By the largest entry first: squares of gradients of 1e-30 are 0.
        rows = safe_divide(rows, jnp.max(jnp.abs(rows), axis=1, keepdims=True))
        rows = safe_divide(rows, jnp.sqrt(pairwise_sum(rows * rows))[:, None])
        return towards(x + step * rows.reshape(x.shape), given)
    slack = _slack(_rows(x), rows, bounds)
    place = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 1)
    _, room, place = jax.lax.sort((-jnp.abs(rows), slack, place), num_keys=1)
    # What the coordinates before this one take of the step.
    used = jnp.cumsum(room, axis=1) - room
    moved = jnp.clip(step.reshape(-1, 1) - used, 0, room)
    _, moved = jax.lax.sort((place, moved), num_keys=1)  # back to where they were
    moved = (jnp.sign(rows) * moved).reshape(x.shape)
    return towards(jnp.clip(x + moved, *bounds), given)


def sample(
    x: Images, *, key: Key, eps: Radius, norm: Norm, bounds: Bounds = (0.0, 1.0)
) -> Images:
    """Draws a point uniformly from the eps-ball around each row, then into the box.

    In L0 it draws which values (or pixels) change, and values of the box for them. The
    other arguments are as in `project`; `key` is one key or one per row.

    Returns:
      Points in ball and box, shape and dtype of `x`.
    """
    _check(norm, bounds, x, eps=eps)
    keys = _checks.row_keys(key, x.shape[0])
    given, (x,) = x, widened(x)
    eps = capped(eps, x, norm, bounds)
    if norm in _checks.SPARSE:
        point = _sparse.sample(x, keys, per_row(eps, x), norm, bounds)
        return towards(point, given)
    point = x + per_row(eps, x) * in_unit_ball(x, key=keys, norm=norm)
    return towards(project(point, x, eps=eps, norm=norm, bounds=bounds), given)


def in_unit_ball(x: Images, *, key: Key, norm: Norm) -> Images:
    """Draws a point uniformly from the ball of radius 1 around 0 for each row of `x`.

    `key` is one key or one per row. The shape and dtype are those of `x`; there is no
    box.
    """
    keys, size = _checks.row_keys(key, x.shape[0]), math.prod(x.shape[1:])
    return jax.vmap(lambda k: _draw(k, size, norm, x.dtype))(keys).reshape(x.shape)


def _draw(key: Key, size: int, norm: Norm, dtype: jnp.dtype) -> Float[Array, " d"]:
    """Draws a point uniformly from the ball of radius 1 around 0."""
    if norm == "linf":
        return jax.random.uniform(key, (size,), dtype, -1.0, 1.0)
    direction, radius = jax.random.split(key)
    # Gaussians over their length are uniform on the sphere of L2, Laplace numbers on
    # that of L1; and U^(1/d) is the radius, as volume grows with r^d.
    if norm == "l2":
        drawn = jax.random.normal(direction, (size,), dtype)
        length = jnp.sqrt(jnp.sum(drawn * drawn))
    else:
        drawn = jax.random.laplace(direction, (size,), dtype)
        length = jnp.sum(jnp.abs(drawn))
    return drawn / length * jax.random.uniform(radius, (), dtype) ** (1 / size)


def _project_l1(
    delta: Float[Array, "B d"],
    x: Float[Array, "B d"],
    radius: Float[Array, "b 1"],
    bounds: Bounds,
) -> Float[Array, "B d"]:
    """Nearest point of the L1 ball cut with the box.

    The solution is min(max(|delta| - t, 0), slack) with one threshold t per row, found
    where the length falls to the radius.
    """
    chex.assert_equal_shape([delta, x])
    size = jnp.abs(delta)
    slack = _slack(x, delta, bounds)

    def long(t: PerExample) -> jax.Array:
        moved = jnp.minimum(jnp.maximum(size - t[:, None], 0), slack)
        return jnp.sum(moved, axis=1) >= radius[:, 0]

    threshold = largest_where(long, size[:, 0])[:, None]
    # That sum loses digits on long rows: solve once more for the coordinates it tells.
    free = (size > threshold) & (size - slack < threshold)
    full = (size > threshold) & ~free
    length = pairwise_sum(jnp.where(free, size, jnp.where(full, slack, 0)))[:, None]
    count = jnp.sum(free, axis=1, keepdims=True).astype(size.dtype)
    refined = jnp.maximum((length - radius) / jnp.maximum(count, 1), 0)
    threshold = jnp.where(count > 0, refined, threshold)
    inside = pairwise_sum(jnp.minimum(size, slack))[:, None] <= radius
    threshold = jnp.where(inside, 0, threshold)
    moved = jnp.minimum(jnp.maximum(size - threshold, 0), slack)
    return _scale_into_ball(jnp.sign(delta) * moved, radius, "l1")


def _scale_into_ball(
    delta: Float[Array, "B d"], radius: Float[Array, "b 1"], norm: Norm
) -> Float[Array, "B d"]:
    length = _norm(delta, norm)[:, None]
    outside = length > radius
    # A few units in the last place inside, for what the sum has lost to rounding.
    radius = radius * (1 - 4 * jnp.finfo(delta.dtype).eps)
    return delta * jnp.where(outside, radius / jnp.where(outside, length, 1), 1)


def _norm(rows: Float[Array, "B d"], norm: Norm) -> PerExample:
    rows = jnp.abs(rows)
    largest = jnp.max(rows, axis=1, initial=0)
    if norm == "linf":
        return largest
    if norm == "l1":
        return pairwise_sum(rows)
    # Scaled by the largest entry, so that squares neither overflow nor vanish.
    return largest * jnp.sqrt(pairwise_sum(safe_divide(rows, largest[:, None]) ** 2))


def _slack(
    x: Float[Array, "B d"], direction: Float[Array, "B d"], bounds: Bounds
) -> Float[Array, "B d"]:
    """Room between `x` and the box wall in the direction's sign; 0 for no sign."""
    room = jnp.where(direction > 0, bounds[1] - x, x - bounds[0])
    return jnp.where(direction == 0, 0, jnp.maximum(room, 0))


def _round_towards(x: Images, delta: Images) -> Images:
    """Returns `x + delta`, rounded so that it is no further from `x` than |delta|."""
    point = x + delta
    over = jnp.abs(point - x) > jnp.abs(delta)
    return jnp.where(over, jnp.nextafter(point, x), point)


def _rows(x: Images) -> Float[Array, "B d"]:
    return x.reshape(x.shape[0], -1)


def per_row(value: Radius, x: Images) -> Float[Array, "..."]:
    """Shapes a radius so that it broadcasts against images `x`."""
    value = jnp.asarray(value, x.dtype)
    if value.ndim != 1:
        return value
    return value.reshape(value.shape + (1,) * (x.ndim - 1))


def plain(value: Radius, x: Images) -> Radius:
    """Returns a radius, `[B]` or a number where it is the same for a whole row."""
    got = jnp.shape(value)
    if len(got) != x.ndim or any(n != 1 for n in got[1:]):
        return value
    return jnp.reshape(value, got[:1] if got[0] == x.shape[0] else ())


def capped(eps: Radius, x: Images, norm: Norm, bounds: Bounds) -> Float[Array, "..."]:
    """Returns radii, those that are larger than any image needs cut to such a one.

    The ball is the same, and numbers in it neither overflow nor lose their digits.
    """
    eps = jnp.asarray(eps, wide_dtype(x.dtype))
    return jnp.minimum(eps, covering_radius(norm, math.prod(x.shape[1:]), bounds))


def covering_radius(norm: Norm, size: int, bounds: Bounds) -> float:
    """The radius at which the ball around any image of `size` numbers holds the box."""
    width = bounds[1] - bounds[0]
    if norm in _checks.SPARSE:
        return float(size)
    return width * {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[norm]
