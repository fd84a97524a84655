"""Equations that are said by others, or by a rule of their own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxrobust.attacks import programs
from jaxrobust.certify import _composites, _graph
from jaxrobust.certify._composites import Rewrite
from jaxrobust.certify._graph import Node, apply, new

COMPARISONS = ("gt", "ge", "lt", "le")


def rewrite(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Returns what an equation is; None where it stays what it is."""
    name = eqn.primitive.name
    called = str(eqn.params.get("name", ""))
    if called in _composites.CALLS and any(isinstance(one, Node) for one in values):
        found = _composites.CALLS[called](eqn, values)
        if found is not None:
            return found
    if name not in TABLE or not any(isinstance(one, Node) for one in values):
        return None
    return TABLE[name](eqn, values)


# Numbers and axes of length 1 are spread: planes are of values, one by one.
_ALIGNED = (*COMPARISONS, "max", "min", "mul", "div", "add", "sub", "select_n")


def aligned(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Gives nodes, and arrays with axes, the shape of the result."""
    shape = eqn.outvars[0].aval.shape
    nodes = any(isinstance(one, Node) for one in values)
    if eqn.primitive.name not in _ALIGNED or not nodes:
        return values

    def spread(value: Any) -> Any:
        if np.shape(value) in (shape, ()) and not isinstance(value, Node):
            return value
        if np.shape(value) == shape:
            return value
        return apply(lambda v: jnp.broadcast_to(v, shape), value)[0]

    return [spread(value) for value in values]


def _comparison(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Keeps a comparison for the selection that it is made for."""
    return [new(eqn.primitive.name, values, eqn.outvars[0])]


def _is_finite(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Says that all is finite; where it may not be nothing is proved."""
    _graph.assume_finite(values[0])
    return [np.ones(np.shape(values[0]), bool)]


def _ne(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Says that nothing is NaN, as `x != x` asks; where it may be nothing is proved."""
    if values[0] is values[1]:
        _graph.assume_finite(values[0])
        return [np.zeros(values[0].shape, bool)]
    raise _graph.unsupported(eqn)


def _or(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Leaves out a condition that never, or always, holds."""
    one, other = values
    for first, second in ((one, other), (other, one)):
        if _graph.holds(first, eqn.primitive.name == "and"):
            return [second]
    raise _graph.unsupported(eqn, "of conditions that depend on the input")


def _select(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Selects by a comparison: a maximum, a leaky ReLU, or any two values."""
    which, *cases = values
    if not isinstance(which, Node):
        if isinstance(which, Tracer) or len(cases) != 2:
            return None
        chosen = np.asarray(which).astype(bool)
        for all_of, case in ((~chosen, cases[0]), (chosen, cases[1])):
            if all_of.all():
                return [case]
        return None
    if which.op not in COMPARISONS or len(cases) != 2:
        raise _graph.unsupported(eqn, f"by '{which.op}' of the input")
    larger, smaller = which.inputs
    no, yes = cases
    if which.op in ("lt", "le"):
        larger, smaller = smaller, larger
    # Now `yes` is taken where larger > smaller, whichever of > and >= it is.
    like = eqn.outvars[0]
    if _same(yes, larger) and _same(no, smaller):
        return [new("max", (larger, smaller), like)]
    if _same(yes, smaller) and _same(no, larger):
        return [new("min", (larger, smaller), like)]
    if (leak := _leak(larger, smaller, yes, no)) is not None:
        return [new("leaky_relu", (larger, leak), like)]
    return [new("select", (larger, smaller, no, yes), like)]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Node) or isinstance(other, Node):
        return one is other
    if isinstance(one, Tracer) or isinstance(other, Tracer):
        return one is other
    a, b = np.asarray(one), np.asarray(other)
    alike = () in (a.shape, b.shape) or a.shape == b.shape
    return alike and bool((a == b).all())


def _leak(x: Any, threshold: Any, yes: Any, no: Any) -> Any:
    """Returns the slope below 0 of a leaky ReLU of x; None for another selection."""
    if not (isinstance(x, Node) and _graph.holds(threshold, 0) and yes is x):
        return None
    if isinstance(no, Node) and no.op == "mul":
        for node, slope in (no.inputs, no.inputs[::-1]):
            if node is x and not isinstance(slope, Node | Tracer):
                steep = np.asarray(slope)
                return slope if np.all((steep >= 0) & (steep <= 1)) else None
    return None


def _extreme(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Leaves out what never is the maximum, or the minimum."""
    name = eqn.primitive.name
    never = -np.inf if name == "max" else np.inf
    for one, other in (values, values[::-1]):
        if (
            _graph.holds(one, never)
            and isinstance(other, Node)
            and (other.shape == eqn.outvars[0].aval.shape)
        ):
            return [other]
    return [new(name, values, eqn.outvars[0])]


def _mul(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    if values[0] is values[1]:
        return [new("square", values[:1], eqn.outvars[0])]
    return None


def _div(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Divides by the input: multiplies by its reciprocal."""
    number, by = values
    if not isinstance(by, Node):
        return None
    inverse = new("reciprocal", (by,), by)
    return apply(jnp.multiply, number, inverse)


def _clamp(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    low, x, high = values
    fill = eqn.outvars[0].aval.shape

    def clamped(low: Any, x: Any, high: Any) -> Any:
        low, high = (jnp.broadcast_to(one, fill) for one in (low, high))
        return lax.min(lax.max(x, low), high)

    return apply(clamped, low, x, high)


def _pow(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Takes a power: whole ones by themselves, others by exp and log."""
    base, exponent = values
    known = None if isinstance(exponent, Node | Tracer) else np.asarray(exponent)
    if known is not None and known.size and (known == known.flat[0]).all():
        number = float(known.flat[0])
        if number == np.rint(number) and np.isfinite(number):
            return apply(lambda x: lax.integer_pow(x, int(number)), base)
        if number == 0.5:
            return apply(lax.sqrt, base)
    return apply(lambda a, b: jnp.exp(jnp.log(a) * b), base, exponent)


def _integer_pow(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    power, (x,) = eqn.params["y"], values
    if power < 0:
        return apply(lambda z: 1 / lax.integer_pow(z, -power), x)
    if power in (0, 1):
        return [jnp.ones(x.shape, x.dtype)] if power == 0 else [x]
    if power == 2:
        return [new("square", values, eqn.outvars[0])]
    kind = "odd_power" if power % 2 else "even_power"
    return [new(kind, values, eqn.outvars[0], power=power)]


def _split(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    axis, ends = eqn.params["axis"], np.cumsum(eqn.params["sizes"])

    def parts(x: Any) -> list[Any]:
        starts = [0, *ends[:-1]]
        pairs = zip(starts, ends, strict=True)
        return [lax.slice_in_dim(x, int(a), int(b), axis=axis) for a, b in pairs]

    return apply(parts, *values)


def _gather(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Reads inside of the array alone, where reading and its transpose agree.

    Indices beyond it are clipped there, as XLA does; or what fills their places is put
    there.
    """
    (x, indices), p = values, eqn.params
    modes = lax.GatherScatterMode
    if p["mode"] == modes.CLIP or isinstance(indices, Node):
        return None

    def read(fill: Any = None, mode: Any = modes.CLIP) -> Callable[..., Any]:
        return lambda x, i: lax.gather(
            x, i, p["dimension_numbers"], p["slice_sizes"], mode=mode, fill_value=fill
        )

    clipped = apply(read(), x, indices)
    if p["mode"] != modes.FILL_OR_DROP:
        return clipped
    ones, zeros = (jnp.full(x.shape, v, x.dtype) for v in (1, 0))
    (inside,) = apply(read(0, p["mode"]), ones, indices)
    (filled,) = apply(read(p["fill_value"], p["mode"]), zeros, indices)
    return apply(lambda g, v, f: jnp.where(v > 0, g, f), clipped[0], inside, filled)


def _window_max(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Takes the maximum of the entries at each place of a window."""
    p = eqn.params
    size, strides = p["window_dimensions"], p["window_strides"]
    dilated = p["window_dilation"]
    if set(p["base_dilation"]) != {1}:
        raise _graph.unsupported(eqn, "with a dilated base")
    shape = eqn.outvars[0].aval.shape

    def pooled(x: Any) -> Any:
        # What lies outside never is the maximum; -inf would not survive a difference.
        low = jnp.asarray(np.finfo(x.dtype).min / 4, x.dtype)
        margins = [(a, b, 0) for a, b in p["padding"]]
        if any(a or b for a, b in p["padding"]):
            x = lax.pad(x, low, margins)
        best = None
        for place in np.ndindex(*size):
            start = [i * d for i, d in zip(place, dilated, strict=True)]
            spans = zip(start, shape, strides, strict=True)
            end = [a + (n - 1) * s + 1 for a, n, s in spans]
            one = lax.slice(x, start, end, strides)
            best = one if best is None else lax.max(best, one)
        return best

    return apply(pooled, *values)


def _window(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Reads a general window of a maximum or a sum off its reducer."""
    inner = eqn.params.get("jaxpr")
    ops = [one.primitive.name for one in inner.eqns] if inner is not None else []
    raise _graph.unsupported(eqn, f"of {', '.join(ops)}")


def _scan(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Writes a loop out."""
    p = eqn.params
    kept, carried = programs.scan_sizes(eqn)
    consts, carry = values[:kept], list(values[kept : kept + carried])
    xs, body = values[kept + carried :], p["jaxpr"]
    steps = range(p["length"])
    outs_of = eqn.outvars[carried:]
    outs: list[list[Any]] = [[] for _ in outs_of]
    for i in reversed(steps) if p["reverse"] else steps:
        row = [apply(lambda x, i=i: x[i], x)[0] for x in xs]
        out = _graph.evaluate(body.jaxpr, body.consts, [*consts, *carry, *row])
        carry = out[:carried]
        for one, found in zip(outs, out[carried:], strict=True):
            one.append(found)
    if p["reverse"]:
        outs = [one[::-1] for one in outs]
    if not p["length"]:
        return [*carry, *(jnp.zeros(v.aval.shape, v.aval.dtype) for v in outs_of)]
    stacked = [apply(lambda *parts: jnp.stack(parts), *one)[0] for one in outs]
    return [*carry, *stacked]


def _one_by_one(fn: Callable[..., Any]) -> Rewrite:
    return lambda eqn, values: apply(fn, *values)


TABLE: Mapping[str, Rewrite] = {
    **dict.fromkeys(COMPARISONS, _comparison),
    "ne": _ne,
    "or": _or,
    "and": _or,
    "select_n": _select,
    "max": _extreme,
    "min": _extreme,
    "mul": _mul,
    "div": _div,
    "clamp": _clamp,
    "pow": _pow,
    "integer_pow": _integer_pow,
    "split": _split,
    "reduce_window_max": _window_max,
    "reduce_window": _window,
    "scan": _scan,
    # As affine ones their gradients would be taken for transposes.
    "stop_gradient": lambda eqn, values: values,
    "optimization_barrier": lambda eqn, values: values,
    "is_finite": _is_finite,
    "gather": _gather,
    "exp": _composites.exp_of_shifted,
    "reduce_sum": _composites.sum_of_shifted,
    "expm1": _one_by_one(lambda x: lax.exp(x) - 1),
    "log1p": _one_by_one(lambda x: lax.log(x + 1)),
    "erfc": _one_by_one(lambda x: 1 - lax.erf(x)),
    "reduce_min": lambda eqn, values: apply(
        lambda x: -jnp.max(-x, eqn.params["axes"]), *values
    ),
}
