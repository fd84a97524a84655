"""Primitives that are not affine: their intervals, and planes where there are some.

An entry of NONLINEAR is a `BoundRule`. `interval(node, *operands)` gets an interval or
a constant for each input. `relax(node, *operands)` returns a plane below and one above
the node, affine in its inputs; without it linear forms end here, at the interval.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.certify import _curves
from jaxrobust.certify import _several as several
from jaxrobust.certify._affine import (
    Interval,
    same_shape,
    widened,
    without_nan,
)
from jaxrobust.certify._curves import ScalarCurve, ScalarLine
from jaxrobust.certify._graph import Node
from jaxrobust.certify._several import BoundRule, Plane, Planes


def _of_curve(find: Callable[[Node], ScalarCurve]) -> BoundRule:
    """Returns the rule of a function of one number."""

    def interval(node: Node, x: Interval) -> Interval:
        return _curves.interval(find(node), x)

    def relax(node: Node, x: Interval) -> Planes:
        curve = find(node)
        # Elsewhere, and where it is not defined, planes are flat, at the interval.
        bounded = jnp.isfinite(x.upper - x.lower)
        if curve.positive:
            bounded &= x.lower > 0
        inside = Interval(*(jnp.where(bounded, v, 1) for v in x))
        flat = without_nan(_curves.interval(curve, x))
        below, above = (
            ScalarLine(
                jnp.where(bounded, line.slope, 0),
                jnp.where(bounded, line.intercept, end),
            )
            for line, end in zip(_curves.lines(curve, inside), flat, strict=True)
        )
        return Planes(
            Plane((below.slope,), below.intercept),
            Plane((above.slope,), above.intercept),
        )

    return BoundRule(interval, relax)


def _fixed(curve: ScalarCurve) -> BoundRule:
    return _of_curve(lambda node: curve)


def _odd_power(node: Node) -> ScalarCurve:
    power = node.params["power"]
    return ScalarCurve(
        lambda x: lax.integer_pow(x, power),
        lambda x: power * lax.integer_pow(x, power - 1),
        "reverse_s",
    )


def _even_power(node: Node) -> ScalarCurve:
    return _odd_power(node)._replace(shape="convex", least=0.0)


def _reciprocal_interval(node: Node, x: Interval) -> Interval:
    """Is everything where 0 is in the interval."""
    found = widened(Interval(1 / x.upper, 1 / x.lower))
    apart = (x.lower > 0) | (x.upper < 0)
    return Interval(
        jnp.where(apart, found.lower, -jnp.inf), jnp.where(apart, found.upper, jnp.inf)
    )


def _reciprocal_planes(node: Node, x: Interval) -> Planes:
    """Chord and tangent of 1 / x where 0 is not in the interval."""
    apart = (x.lower > 0) | (x.upper < 0)
    positive = x.lower > 0
    size = [jnp.where(positive, v, -w) for v, w in zip(x, x[::-1], strict=True)]
    inside = Interval(*(jnp.where(apart, v, 1) for v in size))
    curve = _curves.curve(lambda v: 1 / v, "convex", falls=True)
    below, above = _curves.lines(curve, inside)
    # 1 / -x = -(1 / x): same slopes, the lines change places.
    lower = jnp.where(positive, below.intercept, -above.intercept)
    upper = jnp.where(positive, above.intercept, -below.intercept)
    slopes = [
        jnp.where(apart, jnp.where(positive, *pair), 0)
        for pair in ((below.slope, above.slope), (above.slope, below.slope))
    ]
    return Planes(
        Plane((slopes[0],), jnp.where(apart, lower, -jnp.inf)),
        Plane((slopes[1],), jnp.where(apart, upper, jnp.inf)),
    )


def _steps(node: Node, x: Interval) -> Interval:
    """Is that of the ends, for a function that never falls."""
    return Interval(node.apply(x.lower), node.apply(x.upper))


NONLINEAR: Mapping[str, BoundRule] = {
    "max": BoundRule(several.max_interval, several.max_planes),
    "min": BoundRule(
        several.mirrored(several.max_interval), several.mirrored(several.max_planes)
    ),
    "leaky_relu": several.bent(lambda node, rest: rest[0]),
    "abs": several.bent(lambda node, rest: -1.0),
    "select": BoundRule(several.select_interval, several.select_planes),
    "mul": BoundRule(several.product_interval, several.product_planes),
    "dot_general": BoundRule(several.dot_interval),
    "reduce_max": BoundRule(several.reduce_max_interval, several.reduce_max_planes),
    "exp": _fixed(ScalarCurve(jnp.exp, jnp.exp, "convex")),
    "log": _fixed(ScalarCurve(jnp.log, lambda x: 1 / x, "concave", positive=True)),
    "sqrt": _fixed(
        ScalarCurve(
            jnp.sqrt, lambda x: 0.5 / jnp.sqrt(x), "concave", positive=True, zero=True
        )
    ),
    "rsqrt": _fixed(_curves.curve(lax.rsqrt, "convex", falls=True, positive=True)),
    "reciprocal": BoundRule(_reciprocal_interval, _reciprocal_planes),
    "square": _fixed(ScalarCurve(jnp.square, lambda x: 2 * x, "convex", least=0.0)),
    "odd_power": _of_curve(_odd_power),
    "even_power": _of_curve(_even_power),
    "tanh": _fixed(ScalarCurve(jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2, "s")),
    "logistic": _fixed(
        ScalarCurve(
            jax.nn.sigmoid, lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x), "s"
        )
    ),
    "erf": _fixed(
        ScalarCurve(lax.erf, lambda x: 2 / np.sqrt(np.pi) * jnp.exp(-x * x), "s")
    ),
    "softplus": _fixed(ScalarCurve(jax.nn.softplus, jax.nn.sigmoid, "convex")),
    "elu": _fixed(
        ScalarCurve(jax.nn.elu, lambda x: jnp.exp(jnp.minimum(x, 0)), "convex")
    ),
    **dict.fromkeys(("sign", "floor", "ceil", "round"), BoundRule(_steps)),
}


# Rules of primitives that take two arrays of one shape.
_OF_TWO = ("mul",)


def is_known(node: Node) -> bool:
    """Whether there is a rule for a node."""
    if node.op not in NONLINEAR or not jnp.issubdtype(node.dtype, jnp.floating):
        return False
    if jnp.finfo(node.dtype).bits < 32:
        return False
    return node.op not in _OF_TWO or same_shape(node)
