"""The ball of a norm cut with the box: projections, steps, draws."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust._checks import (
    check_bounds,
    check_norm,
    check_radius,
    check_shape,
    row_keys,
)
from jaxrobust.array_types import Bounds, Images, Key, Norm, PerExample
from jaxrobust.threat._precision import towards, wide_dtype

Radius = float | Float[Array, "..."]

# A step that is longer than so many times the box's diameter is cut to that.
_LONGEST_STEP = 1e3


def _check(norm: Any, bounds: object, x: Images, **radii: Any) -> None:
    check_norm(norm)
    check_bounds(bounds)
    for name, value in radii.items():
        check_radius(name, value)
        check_shape(name, value, x.shape, norm)


def distance(x_adv: Images, x: Images, *, norm: Norm) -> PerExample:
    """Returns the norm of `x_adv - x` per row, `[B]`, at least float32."""
    check_norm(norm)
    x_adv, x = (v.astype(wide_dtype(v.dtype)) for v in (x_adv, x))
    return _norm(_rows(x_adv - x), norm)


def project(
    x_adv: Images, x: Images, *, eps: Radius, norm: Norm, bounds: Bounds = (0.0, 1.0)
) -> Images:
    """Moves `x_adv` into the eps-ball around `x` and into the box.

    Linf and L1 give the nearest point (Euclidean) of ball and box together; L2 scales
    into the ball, then clips (as AutoAttack, which also keeps both).

    Args:
      x_adv: points to move, `[B, ...]`.
      x: centres, `[B, ...]`, inside `bounds`.
      eps: radius in the units of the images, a number, `[B]`, or in Linf what
        broadcasts to the images; may be traced.
      norm: 'linf', 'l2' or 'l1'.
      bounds: lowest and highest value of an image.

    Returns:
      Points of the shape and dtype of `x`.

    Raises:
      ValueError: for a radius below 0, NaN or of another shape, or bounds that do not
        increase.
    """
    _check(norm, bounds, x, eps=eps)
    if x.dtype != wide_dtype(x.dtype):
        inner = project(*_widened(x_adv, x), eps=eps, norm=norm, bounds=bounds)
        return towards(inner, x)
    low, high = bounds
    radius = per_row(eps, x)
    if norm == "linf":
        wide = _round_towards(x, jnp.broadcast_to(radius, x.shape))
        narrow = _round_towards(x, jnp.broadcast_to(-radius, x.shape))
        return jnp.clip(jnp.clip(x_adv, narrow, wide), low, high)
    delta = _rows(x_adv - x)
    radius = radius.reshape(-1, 1)
    if norm == "l2":
        delta = _scale_into_ball(delta, radius, norm)
    else:
        delta = _project_l1(delta, _rows(x), radius, bounds)
    return jnp.clip(_round_towards(x, delta.reshape(x.shape)), low, high)


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
    """
    _check(norm, bounds, x, step_size=step_size)
    if x.dtype != wide_dtype(x.dtype):
        inner = steepest_step(
            *_widened(x, grad), step_size=step_size, norm=norm, bounds=bounds
        )
        return towards(inner, x)
    grad = tamed(grad)
    longest = _LONGEST_STEP * covering_radius(norm, math.prod(x.shape[1:]), bounds)
    step = jnp.minimum(per_row(step_size, x), longest)
    if norm == "linf":
        return x + step * jnp.sign(grad)
    rows = _rows(grad)
    if norm == "l2":
        # By the largest entry first: squares of gradients of 1e-30 are 0.
        rows = safe_divide(rows, jnp.max(jnp.abs(rows), axis=1, keepdims=True))
        rows = safe_divide(rows, jnp.sqrt(_pairwise_sum(rows * rows))[:, None])
        return x + step * rows.reshape(x.shape)
    slack = _slack(_rows(x), rows, bounds)
    place = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 1)
    _, room, place = jax.lax.sort((-jnp.abs(rows), slack, place), num_keys=1)
    # What the coordinates before this one take of the step.
    used = jnp.cumsum(room, axis=1) - room
    moved = jnp.clip(step.reshape(-1, 1) - used, 0, room)
    _, moved = jax.lax.sort((place, moved), num_keys=1)  # back to where they were
    moved = (jnp.sign(rows) * moved).reshape(x.shape)
    return jnp.clip(x + moved, *bounds)


def sample(
    x: Images, *, key: Key, eps: Radius, norm: Norm, bounds: Bounds = (0.0, 1.0)
) -> Images:
    """Draws a point uniformly from the eps-ball around each row, then into the box.

    L2: a Gaussian direction, L1: a Laplace direction, times U^(1/d).

    Args:
      x: centres `[B, ...]`.
      key: one key or one per row.
      eps: radius, as in `project`.
      norm: 'linf', 'l2' or 'l1'.
      bounds: lowest and highest value of an image.

    Returns:
      Points in ball and box, shape and dtype of `x`.
    """
    _check(norm, bounds, x, eps=eps)
    keys = row_keys(key, x.shape[0])
    if x.dtype != wide_dtype(x.dtype):
        (inner,) = _widened(x)
        return towards(sample(inner, key=keys, eps=eps, norm=norm, bounds=bounds), x)
    eps = capped(eps, x, norm, bounds)
    size = math.prod(x.shape[1:])
    draw = {"linf": _draw_linf, "l2": _draw_l2, "l1": _draw_l1}[norm]
    unit = jax.vmap(lambda k: draw(k, size, x.dtype))(keys).reshape(x.shape)
    return project(x + per_row(eps, x) * unit, x, eps=eps, norm=norm, bounds=bounds)


def _draw_linf(key: Key, size: int, dtype: jnp.dtype) -> Float[Array, " d"]:
    return jax.random.uniform(key, (size,), dtype, -1.0, 1.0)


def _draw_l2(key: Key, size: int, dtype: jnp.dtype) -> Float[Array, " d"]:
    direction, radius = jax.random.split(key)
    # Gaussians know no direction, and U^(1/d) is the radius: volume grows as r^d.
    normal = jax.random.normal(direction, (size,), dtype)
    length = jnp.sqrt(jnp.sum(normal * normal))
    return normal / length * jax.random.uniform(radius, (), dtype) ** (1 / size)


def _draw_l1(key: Key, size: int, dtype: jnp.dtype) -> Float[Array, " d"]:
    direction, radius = jax.random.split(key)
    # Laplace numbers over their L1 length are uniform on the sphere of L1.
    laplace = jax.random.laplace(direction, (size,), dtype)
    length = jnp.sum(jnp.abs(laplace))
    return laplace / length * jax.random.uniform(radius, (), dtype) ** (1 / size)


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
    length = _pairwise_sum(jnp.where(free, size, jnp.where(full, slack, 0)))[:, None]
    count = jnp.sum(free, axis=1, keepdims=True).astype(size.dtype)
    refined = jnp.maximum((length - radius) / jnp.maximum(count, 1), 0)
    threshold = jnp.where(count > 0, refined, threshold)
    inside = _pairwise_sum(jnp.minimum(size, slack))[:, None] <= radius
    threshold = jnp.where(inside, 0, threshold)
    moved = jnp.minimum(jnp.maximum(size - threshold, 0), slack)
    return _scale_into_ball(jnp.sign(delta) * moved, radius, "l1")


def largest_where(
    holds: Callable[[PerExample], jax.Array], like: PerExample
) -> PerExample:
    """Returns the largest number of at least 0 at which a condition holds, per row.

    Found bit by bit, since numbers of at least 0 are ordered as their bits are: on a
    CPU far quicker than a sort.

    Args:
      holds: tells `[B]` numbers whether the condition holds, as it must up to some
        number of at least 0 and nowhere beyond.
      like: `[B]`, floating; the result has its type.
    """
    count = jnp.finfo(like.dtype).bits
    bits = jnp.zeros_like(like, jnp.dtype(f"int{count}"))

    def body(i: jax.Array, found: jax.Array) -> jax.Array:
        trial = found | jnp.left_shift(jnp.ones_like(found), count - 2 - i)
        number = jax.lax.bitcast_convert_type(trial, like.dtype)
        return jnp.where(jnp.isfinite(number) & holds(number), trial, found)

    found = jax.lax.fori_loop(0, count - 1, body, bits)
    number = jax.lax.bitcast_convert_type(found, like.dtype)
    # Comparisons take the smallest numbers for 0, so one of them may come out for it.
    return jnp.where(number < jnp.finfo(like.dtype).tiny, 0, number)


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
        return _pairwise_sum(rows)
    # Scaled by the largest entry, so that squares neither overflow nor vanish.
    return largest * jnp.sqrt(_pairwise_sum(safe_divide(rows, largest[:, None]) ** 2))


def _pairwise_sum(rows: Float[Array, "B d"]) -> PerExample:
    """Sums rows in groups of 16, then the groups: the error grows with log d, not d."""
    group = 16
    while (size := rows.shape[1]) > group:
        rows = jnp.pad(rows, ((0, 0), (0, -size % group)))
        rows = jnp.sum(rows.reshape(rows.shape[0], -1, group), axis=2)
    return jnp.sum(rows, axis=1)


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


def _widened(*images: Images) -> list[Images]:
    return [v.astype(wide_dtype(v.dtype)) for v in images]


def tamed(values: Array, *, squared: bool = False) -> Array:
    """Values with 0 for NaN, none so large that a sum of a few (squares) overflows."""
    limit = jnp.finfo(values.dtype).max ** (0.5 if squared else 1) / 8
    return jnp.clip(jnp.nan_to_num(values), -limit, limit)


def safe_divide(values: Array, length: Array) -> Array:
    """Values over a length of at least 0; where that is 0, as they are."""
    return values / jnp.where(length > 0, length, 1)


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
    return width * {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[norm]
