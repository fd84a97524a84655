"""Planes below and above functions of one number.

A plane is `slope x + intercept`, for each value of an array alone. What rounding may
take from it is taken from its intercept: `ULPS` units of the values it is made of.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust._shards import varied_alike
from jaxrobust.certify._affine import Interval, ulps, widened

Function = Callable[[Array], Array]
# Halvings of the interval in which a tangent is looked for.
_HALVINGS = 30


class ScalarLine(NamedTuple):
    """`slope x + intercept`."""

    slope: Array
    intercept: Array


class ScalarCurve(NamedTuple):
    """A function of one number.

    Attributes:
      value: of the function.
      slope: its derivative.
      shape: `convex`, `concave`, `s` (convex below 0, concave above) or `reverse_s`.
      least: where a convex function that falls and rises has its least value; None for
        one that only rises, `falls` says otherwise.
      falls: whether it falls everywhere.
      positive: whether it is defined above 0 alone.
      zero: whether it then is at 0 too.
    """

    value: Function
    slope: Function
    shape: str
    least: float | None = None
    falls: bool = False
    positive: bool = False
    zero: bool = False


def interval(curve: ScalarCurve, x: Interval) -> Interval:
    """Returns the values of a curve on an interval."""
    low, high = curve.value(x.lower), curve.value(x.upper)
    if curve.falls:
        low, high = high, low
    if curve.least is not None:
        at = jnp.clip(jnp.asarray(curve.least, x.lower.dtype), x.lower, x.upper)
        low, high = curve.value(at), jnp.maximum(low, high)
    found = widened(Interval(low, high))
    if not curve.positive:
        return found
    inside = x.lower >= 0 if curve.zero else x.lower > 0
    infinity = jnp.asarray(jnp.inf, low.dtype)
    return Interval(
        jnp.where(inside, found.lower, -infinity),
        jnp.where(inside, found.upper, infinity),
    )


def lines(curve: ScalarCurve, x: Interval) -> tuple[ScalarLine, ScalarLine]:
    """Returns a line below and one above a curve on an interval."""
    if curve.shape == "convex":
        return below_convex(curve, x), chord(curve, x, above=True)
    if curve.shape == "concave":
        below, above = lines(_negative(curve), x)
        return _minus(above), _minus(below)
    if curve.shape == "reverse_s":
        # Of g(x) = -f(x), which is S-shaped.
        below, above = _s_shaped(_negative(curve), x)
        return _minus(above), _minus(below)
    return _s_shaped(curve, x)


def _negative(curve: ScalarCurve) -> ScalarCurve:
    return curve._replace(
        value=lambda x: -curve.value(x), slope=lambda x: -curve.slope(x),
        shape={"concave": "convex", "reverse_s": "s"}[curve.shape],
    )  # fmt: skip


def _minus(line: ScalarLine) -> ScalarLine:
    return ScalarLine(-line.slope, -line.intercept)


def below_convex(curve: ScalarCurve, x: Interval) -> ScalarLine:
    """Returns the tangent at the middle, which is below a convex curve."""
    return tangent(curve, (x.lower + x.upper) / 2, x, above=False)


def tangent(curve: ScalarCurve, at: Array, x: Interval, *, above: bool) -> ScalarLine:
    """Returns the line that touches a curve at a number."""
    slope, value = curve.slope(at), curve.value(at)
    return outward(ScalarLine(slope, value - slope * at), x, value, above=above)


def chord(curve: ScalarCurve, x: Interval, *, above: bool) -> ScalarLine:
    """Returns the line through the ends; flat where they are all but one number."""
    low, high = curve.value(x.lower), curve.value(x.upper)
    wide = x.upper - x.lower > 64 * ulps(low.dtype) * (jnp.abs(x.upper) + 1e-3)
    rise = (high - low) / jnp.where(wide, x.upper - x.lower, 1)
    flat = jnp.maximum(low, high) if above else jnp.minimum(low, high)
    slope = jnp.where(wide, rise, 0)
    start = jnp.where(wide, low - rise * x.lower, flat)
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    return outward(ScalarLine(slope, start), x, size, above=above)


def outward(line: ScalarLine, x: Interval, value: Array, *, above: bool) -> ScalarLine:
    """Moves a line outwards by what rounding may have taken."""
    reach = jnp.maximum(jnp.abs(x.lower), jnp.abs(x.upper))
    slack = ulps(value.dtype) * (jnp.abs(value) + 2 * jnp.abs(line.slope) * reach)
    slack = slack + float(jnp.finfo(value.dtype).tiny)
    return ScalarLine(line.slope, line.intercept + (slack if above else -slack))


def _s_shaped(curve: ScalarCurve, x: Interval) -> tuple[ScalarLine, ScalarLine]:
    """Lines of a rising curve that is convex below 0 and concave above.

    On either side of 0 a chord and the tangent at the middle. Where the interval has 0
    inside, a chord if it stays on its side of the curve, else the tangent that meets
    the curve at the other end.
    """
    middle = (x.lower + x.upper) / 2
    straight = chord(curve, x, above=True)
    mixed = (x.lower < 0) & (x.upper > 0)
    touching = {}
    for above in (False, True):
        fixed, far = (x.lower, x.upper) if above else (x.upper, x.lower)
        # The chord stays above if the curve still rises as steeply at its far end.
        direct = curve.slope(far) >= straight.slope
        at = jnp.where(direct, far, _touching_point(curve, fixed, far))
        on_one_side = x.lower >= 0 if above else x.upper <= 0
        round_side = tangent(curve, jnp.where(on_one_side, middle, at), x, above=above)
        use_chord = (x.upper <= 0) if above else (x.lower >= 0)
        use_chord |= mixed & direct
        line = chord(curve, x, above=above)
        touching[above] = ScalarLine(
            *(
                jnp.where(use_chord, *pair)
                for pair in zip(line, round_side, strict=True)
            )
        )
    return touching[False], touching[True]


def _touching_point(curve: ScalarCurve, fixed: Array, far: Array) -> Array:
    """Returns where, between 0 and `far`, a tangent meets the curve at `fixed`.

    By bisection that ends on the side where the tangent passes the curve outside.
    """
    start, far = lax.stop_gradient((fixed, far))

    def gap(middle: Array, fixed: Array) -> Array:
        rise = curve.slope(middle) * (fixed - middle)
        return curve.value(middle) + rise - curve.value(fixed)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        near, out = ends
        middle = (near + out) / 2
        found = gap(middle, start)
        # Above the curve at a lower end, below at an upper one.
        outside = jnp.where(far > 0, found >= 0, found <= 0)
        return jnp.where(outside, near, middle), jnp.where(outside, middle, out)

    ends = varied_alike((jnp.zeros_like(far), far))
    point = lax.stop_gradient(lax.fori_loop(0, _HALVINGS, halve, ends)[1])
    # The derivative of where the gap is 0, by that of the gap; no change of the value.
    moved = jax.jvp(lambda z: gap(z, start), (point,), (jnp.ones_like(point),))[1]
    change = -gap(point, fixed) / lax.stop_gradient(jnp.where(moved == 0, 1, moved))
    return point + (change - lax.stop_gradient(change))


def _of_jax(value: Function) -> Function:
    """Returns the derivative of a function, of each value of an array alone."""

    def slope(x: Array) -> Array:
        return jax.jvp(value, (x,), (jnp.ones_like(x),))[1]

    return slope


def curve(value: Function, shape: str, **fields: Any) -> ScalarCurve:
    """Returns a curve whose derivative JAX knows."""
    return ScalarCurve(value, _of_jax(value), shape, **fields)
