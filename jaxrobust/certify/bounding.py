"""Bounds of any function, by walking its jaxpr."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import _checks
from jaxrobust.array_types import Norm, Scalar
from jaxrobust.certify import (
    _backwards,
    _graph,
    _numbers,
    _planes_below,
    _propagate,
    _regions,
)
from jaxrobust.certify._affine import Interval, is_linear, without_nan
from jaxrobust.certify._graph import Graph, Node
from jaxrobust.certify._regions import Region
from jaxrobust.certify._several import Planes

Method = Literal["ibp", "crown_ibp", "crown", "alpha_crown"]
METHODS: tuple[Method, ...] = get_args(Method)


def bounds(
    fn: Callable[[Array], Array],
    lower: Array,
    upper: Array,
    method: Method = "crown",
    *,
    forms: Array | None = None,
    center: Array | None = None,
    eps: Scalar | None = None,
    norm: Norm = "linf",
    rows: int | None = None,
) -> tuple[Array, Array]:
    """Bounds what a function can be on a set of inputs.

    The function is traced, and its primitives are bounded one by one:

    `ibp` sends intervals forwards (Gowal et al. 2018, arXiv 1810.12715, section 3).
    `crown` sends linear forms backwards, with planes below and above each nonlinear
    operation from bounds that are themselves made so (Zhang et al. 2018, arXiv
    1811.00866, theorem 3.2). `crown_ibp` takes those bounds from intervals (Zhang et
    al. 2020, arXiv 1906.06316, section 3.2), and `alpha_crown` moves the planes below
    ReLUs and maxima, for the last forms, to where the bounds are best (Xu et al. 2021,
    arXiv 2011.13824).

    All of it is JAX: it can be jitted, mapped and differentiated. Each output depends
    on each input, for all it knows: of a batch of images map over a function of one,
    as `margin` does.

    Args:
      fn: takes an array `[*shape]`, returns a floating one `[*out]`, or more axes.
      lower: the least inputs `[*shape]`, float32 or float64.
      upper: the largest.
      method: one of `METHODS`.
      forms: coefficients `[R, *out]`; bounds these combinations of the outputs, which
        is tighter than to combine bounds.
      center: with `eps` and `norm` a ball `[*shape]` that cuts the box.
      eps: its radius.
      norm: of the ball.
      rows: linear forms in memory at a time; by default what 8 MB hold.

    Returns:
      Least and largest values `[*out]`, or `[R]` of forms. In float32 they hold up to
      the rounding told in `jaxrobust.certify`.

    Raises:
      Unsupported: a ValueError that names the primitive without a rule and its line.
      ValueError: for an unknown method, shapes that differ, lower > upper.
      TypeError: for inputs in half precision, or integers.

    >>> from jaxrobust import certify
    >>> low, high = certify.bounds(jax.nn.relu, jnp.array([-1.0]), jnp.array([2.0]))
    >>> print(jnp.concatenate([low, high]).round(3))
    [0. 2.]
    """
    lower, upper = jnp.asarray(lower), jnp.asarray(upper)
    _check(lower, upper, method, norm, center, eps)
    graph = _graph.trace(fn, lower)
    region = _regions.make(lower, upper, center, eps, norm)
    if forms is not None and forms.shape[1:] != graph.output.shape:
        raise ValueError(
            f"`forms` must have shape [R, *{graph.output.shape}], got {forms.shape}."
        )
    if not isinstance(graph.output, Node):
        fixed = jnp.asarray(graph.output)
        if forms is not None:
            fixed = forms.reshape(forms.shape[0], -1) @ fixed.reshape(-1)
        return fixed, fixed
    if forms is None and not graph.output.size:
        nothing = jnp.zeros(graph.output.shape, lower.dtype)
        return nothing, nothing
    if forms is None:
        return without_nan(_of_output(graph, region, method, rows))
    signed = jnp.concatenate([forms, -forms])
    low, high = jnp.split(of_forms(graph, region, method, signed, rows), 2)
    return without_nan(Interval(low, -high))


def _of_output(
    graph: Graph, region: Region, method: Method, rows: int | None
) -> Interval:
    """Returns bounds of each value of a graph's output."""
    output = graph.output
    known, planes = bounds_inside(graph, region, method, rows)
    if method == "ibp":
        low, high = known[output]
    elif method == "alpha_crown":
        units = jnp.eye(output.size, dtype=output.dtype)
        signed = jnp.concatenate([units, -units]).reshape(-1, *output.shape)
        found = _planes_below.best(graph, signed, region, known, planes)
        low, high = (v.reshape(output.shape) for v in jnp.split(found, 2))
        high = -high
    else:
        low, high = _propagate.extremes(graph, output, region, known, planes, rows)
    if method != "ibp" and not is_linear(output):
        # Of a ReLU, say, the interval is more than its planes.
        other = _propagate.forward(output, known)
        low, high = jnp.maximum(low, other.lower), jnp.minimum(high, other.upper)
    lost = _numbers.doubtful(graph, known)
    return Interval(jnp.where(lost, -jnp.inf, low), jnp.where(lost, jnp.inf, high))


def of_forms(
    graph: Graph,
    region: Region,
    method: Method,
    forms: Array,
    rows: int | None = None,
) -> Array:
    """Returns lower bounds `[R]` of forms `[R, *out]` of a graph's output."""
    known, planes = bounds_inside(graph, region, method, rows)
    if method == "alpha_crown":
        found = _planes_below.best(graph, forms, region, known, planes)
    else:
        found = _backwards.backward(graph, graph.output, forms, region, known, planes)
    return jnp.where(_numbers.read_by(forms, graph, known), -jnp.inf, found)


def bounds_inside(
    graph: Graph, region: Region, method: Method, rows: int | None = None
) -> tuple[dict[Node, Interval], dict[Node, Planes]]:
    """Returns what forms of the output are sent back through.

    Intervals of nodes, and planes of those that are not affine. Of `ibp` there are
    none: forms end at the intervals, the last affine operations and they are one.
    """
    if method == "ibp":
        return _propagate.by_intervals(graph, region), {}
    if method == "crown_ibp":
        known = _propagate.by_intervals(graph, region)
        return known, _propagate.all_planes(graph, known)
    return _propagate.by_forms(graph, region, rows)


def _check(
    lower: Array, upper: Array, method: str, norm: str, center: Any, eps: Any
) -> None:
    _checks.check_choice("method", method, METHODS)
    _checks.check_norm(norm, _checks.NORMS)
    for name, value in (("lower", lower), ("upper", upper)):
        if value.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"`{name}` must be float32 or float64, got {value.dtype}: bounds in "
                "half precision would be mostly rounding."
            )
    if lower.shape != upper.shape or lower.dtype != upper.dtype:
        raise ValueError(
            f"`lower` and `upper` must be alike, got {lower.shape} {lower.dtype} and "
            f"{upper.shape} {upper.dtype}."
        )
    if (center is None) != (eps is None):
        raise ValueError("a ball needs both `center` and `eps`.")
    if eps is not None:
        _checks.check_radius("eps", eps)
    low, high = _checks.concrete(lower), _checks.concrete(upper)
    if low is not None and high is not None and not (low <= high).all():
        wrong = int((~(low <= high)).sum())
        raise ValueError(f"`lower` must be at most `upper`; {wrong} values are not.")
