"""Planes, and the rules of functions of several values: maxima, choices, products."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.certify._affine import Interval, interval_of, ulps, widened, without_nan
from jaxrobust.certify._graph import Node


class Plane(NamedTuple):
    """`sum_i slopes[i] * inputs[i] + intercept`, for each value alone.

    The slopes of constants are not read. They have the shape of the inputs; where that
    is not the node's, `Planes.spread` says how values of the node go to the input's.
    """

    slopes: Sequence[Any]
    intercept: Array


class Planes(NamedTuple):
    """A plane below and one above.

    Attributes:
      lower: below.
      upper: above.
      spread: takes `[R, *node.shape]` to what broadcasts to `[R, *input.shape]`.
      other: a second plane below, where any mean of the two is one too.
    """

    lower: Plane
    upper: Plane
    spread: Callable[[Array], Array] = lambda forms: forms
    other: Plane | None = None


class BoundRule(NamedTuple):
    """See the module."""

    interval: Callable[..., Interval]
    relax: Callable[..., Planes] | None = None


# max(x, y)


def max_interval(node: Node, *operands: Any) -> Interval:
    """The interval of the larger of two values."""
    one, other = map(interval_of, operands)
    shape = node.shape
    lower = jnp.maximum(one.lower, other.lower)
    upper = jnp.maximum(one.upper, other.upper)
    return Interval(jnp.broadcast_to(lower, shape), jnp.broadcast_to(upper, shape))


def max_planes(node: Node, *operands: Any) -> Planes:
    """Planes of max(a, b) = b + max(a - b, 0): the triangle of a ReLU of a - b."""
    a, b = map(interval_of, operands)
    dtype = node.dtype
    low, high = without_nan(Interval(a.lower - b.upper, a.upper - b.lower))
    low, high = (jnp.broadcast_to(v, node.shape) for v in (low, high))
    crossing = (low < 0) & (high > 0)
    # Between ends of which one is infinite there is no chord.
    endless = crossing & ~jnp.isfinite(high - low)
    width = jnp.where(crossing & ~endless, high - low, jnp.inf)
    rise = jnp.where(crossing, jnp.where(endless, 0, high) / width, high > 0)
    rise = rise.astype(dtype)
    reach = jnp.maximum(jnp.abs(low), high)
    slack = jnp.where(crossing, ulps(dtype) * reach, 0)
    start = -rise * jnp.where(endless, 0, low)
    above = jnp.where(endless, jnp.inf, jnp.where(crossing, start, 0) + slack)
    steep = jnp.where(crossing, high > -low, rise > 0).astype(dtype)
    other = jnp.where(crossing, 1 - steep, steep)
    zero = jnp.zeros(node.shape, dtype)
    planes = [
        _between(operands, weight, intercept)
        for weight, intercept in ((steep, zero), (rise, above), (other, zero))
    ]
    return Planes(planes[0], planes[1], other=planes[2])


def _between(operands: Sequence[Any], weight: Array, intercept: Array) -> Plane:
    """Returns weight a + (1 - weight) b + intercept, with constants put in."""
    slopes = (weight, 1 - weight)
    for slope, value in zip(slopes, operands, strict=True):
        if not isinstance(value, Interval):
            intercept = intercept + slope * value
    return Plane(slopes, intercept)


def mirrored(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the rule of min(a, b) = -max(-a, -b) of that of max."""

    def mirrored(node: Node, *operands: Any) -> Any:
        turned = [
            Interval(-v.upper, -v.lower) if isinstance(v, Interval) else -v
            for v in operands
        ]
        found = rule(node, *turned)
        if isinstance(found, Interval):
            return Interval(-found.upper, -found.lower)
        below = Plane(found.upper.slopes, -found.upper.intercept)
        above = Plane(found.lower.slopes, -found.lower.intercept)
        return Planes(below, above)

    return mirrored


# Leaky ReLU, the absolute value: two lines that meet in 0.


def bent(steep_left: Callable[[Node, Sequence[Any]], Any]) -> BoundRule:
    """Returns the rule of max(x, s x) for a slope s <= 1 on the left."""

    def value(x: Array, slope: Any) -> Array:
        return jnp.maximum(x, slope * x)

    def interval(node: Node, x: Interval, *rest: Any) -> Interval:
        slope = steep_left(node, rest)
        low, high = value(x.lower, slope), value(x.upper, slope)
        falls = jnp.asarray(slope) < 0
        lower = jnp.where(
            falls & (x.lower < 0) & (x.upper > 0), 0, jnp.minimum(low, high)
        )
        return widened(Interval(lower, jnp.maximum(low, high)))

    def relax(node: Node, x: Interval, *rest: Any) -> Planes:
        slope = steep_left(node, rest)
        crossing = (x.lower < 0) & (x.upper > 0)
        # Between ends of which one is infinite there is no chord.
        endless = crossing & ~jnp.isfinite(x.upper - x.lower)
        ends = Interval(*(jnp.where(endless, 1, v) for v in x))
        low, high = value(ends.lower, slope), value(ends.upper, slope)
        width = jnp.where(crossing & ~endless, ends.upper - ends.lower, 1)
        right = x.lower >= 0
        rise = jnp.where(crossing, (high - low) / width, jnp.where(right, 1, slope))
        rise = rise.astype(node.dtype)
        slack = ulps(node.dtype) * jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper))
        start = jnp.where(crossing, low - rise * ends.lower, 0) + slack
        start = jnp.where(endless, jnp.inf, start)
        steep = jnp.where(crossing, x.upper > -x.lower, right)
        below = jnp.where(steep, 1, slope).astype(node.dtype)
        other = jnp.where(crossing & steep, slope, jnp.where(crossing, 1, below))
        other = other.astype(node.dtype)
        none: tuple[Any, ...] = (None,) * len(rest)
        return Planes(
            Plane((below, *none), -slack),
            Plane((rise, *none), start),
            other=Plane((other, *none), -slack),
        )

    return BoundRule(interval, relax)


# Any two values, by a comparison.


def decided(a: Any, b: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Says where a > b holds for sure, and where a < b does."""
    a, b = interval_of(a), interval_of(b)
    yes, no = a.lower > b.upper, a.upper < b.lower
    return jnp.broadcast_to(yes, shape), jnp.broadcast_to(no, shape)


def select_interval(node: Node, a: Any, b: Any, no: Any, yes: Any) -> Interval:
    """The interval of what is chosen; of both cases where it may be either."""
    sure, never = decided(a, b, node.shape)
    yes, no = _where_chosen(node, yes, no, a, b)
    lower = jnp.minimum(yes.lower, no.lower)
    upper = jnp.maximum(yes.upper, no.upper)
    return Interval(
        jnp.where(sure, yes.lower, jnp.where(never, no.lower, lower)),
        jnp.where(sure, yes.upper, jnp.where(never, no.upper, upper)),
    )


def _where_chosen(
    node: Node, yes: Any, no: Any, a: Any, b: Any
) -> tuple[Interval, Interval]:
    """Cuts a case that is the compared value itself to where it is chosen."""
    compared, threshold, other, case = node.inputs
    yes, no = interval_of(yes), interval_of(no)
    limit = interval_of(b)
    if case is compared:
        yes = Interval(jnp.maximum(yes.lower, limit.lower), yes.upper)
    if other is compared:
        no = Interval(no.lower, jnp.minimum(no.upper, limit.upper))
    del threshold, a
    return yes, no


def select_planes(node: Node, a: Any, b: Any, no: Any, yes: Any) -> Planes:
    """Takes the case that is sure to be chosen; elsewhere the interval."""
    sure, never = decided(a, b, node.shape)
    both = select_interval(node, a, b, no, yes)
    slopes = [v.astype(node.dtype) for v in (never, sure)]
    made = []
    for end in both:
        intercept = jnp.where(sure | never, 0, end)
        for slope, value in zip(slopes, (no, yes), strict=True):
            if not isinstance(value, Interval):
                intercept = intercept + jnp.where(slope > 0, value, 0)
        made.append(Plane((jnp.zeros(()), jnp.zeros(()), *slopes), intercept))
    return Planes(*made)


# Products of two nodes.


def product_interval(node: Node, a: Interval, b: Interval) -> Interval:
    """The interval of a product of two values: that of its four corners."""
    ends = [x * y for x in a for y in b]
    lower = jnp.minimum(jnp.minimum(ends[0], ends[1]), jnp.minimum(ends[2], ends[3]))
    upper = jnp.maximum(jnp.maximum(ends[0], ends[1]), jnp.maximum(ends[2], ends[3]))
    return widened(Interval(lower, upper))


def product_planes(node: Node, a: Interval, b: Interval) -> Planes:
    """Planes of McCormick (1976), tangent to x y along two edges of the box."""
    sizes = jnp.maximum(*map(jnp.abs, a)) * jnp.maximum(*map(jnp.abs, b))
    slack = 4 * ulps(node.dtype) * sizes
    below = Plane((b.lower, a.lower), -a.lower * b.lower - slack)
    above = Plane((b.lower, a.upper), -a.upper * b.lower + slack)
    return Planes(below, above)


def dot_interval(node: Node, a: Interval, b: Interval) -> Interval:
    """Sums products: |x y - centre| is at most |cx| ry + rx |cy| + rx ry."""
    (cx, rx), (cy, ry) = (
        ((v.lower + v.upper) / 2, (v.upper - v.lower) / 2) for v in (a, b)
    )
    share = ulps(node.dtype)
    rx, ry = rx + share * (jnp.abs(cx) + rx), ry + share * (jnp.abs(cy) + ry)
    middle, sizes = node.apply(cx, cy), node.apply(jnp.abs(cx), jnp.abs(cy))
    both = node.apply(jnp.abs(cx) + rx, jnp.abs(cy) + ry)
    reach = both - sizes + share * both
    return Interval(middle - reach, middle + reach)


# The largest of an axis.


def reduce_max_interval(node: Node, x: Interval) -> Interval:
    """The interval of the largest of several values."""
    return Interval(node.apply(x.lower), node.apply(x.upper))


def reduce_max_planes(node: Node, x: Interval) -> Planes:
    """Below: the value that is largest at least. Above: it, if no other can be."""
    axes = tuple(node.params["axes"])
    ends = [len(x.lower.shape) - len(axes) + i for i in range(len(axes))]

    def spread(forms: Array) -> Array:
        return jnp.expand_dims(forms, tuple(a + 1 for a in axes))

    moved = [jnp.moveaxis(v, axes, ends) for v in x]
    rows = [v.reshape(*node.shape, -1) for v in moved]
    best = jax.nn.one_hot(jnp.argmax(rows[0], -1), rows[0].shape[-1], dtype=node.dtype)
    others = jnp.where(best > 0, -jnp.inf, rows[1])
    sure = jnp.max(rows[0], -1) >= jnp.max(others, -1)
    top = jnp.max(rows[1], -1)

    def back(slopes: Array) -> Array:
        return jnp.moveaxis(slopes.reshape(moved[0].shape), ends, axes)

    below = Plane((back(best),), jnp.zeros(node.shape, node.dtype))
    above = Plane(
        (back(best * sure[..., None].astype(node.dtype)),), jnp.where(sure, 0, top)
    )
    return Planes(below, above, spread)


# Functions of one number.
