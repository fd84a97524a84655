"""What a program computes and moves, read off its jaxpr; nothing is compiled or run.

XLA's own `cost_analysis` counts the body of a loop once and an unfused program's
memory traffic; here loops count as often as they run, elementwise work is taken as
fused, and every operation is known by itself, which a roofline needs.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

# Primitives beside convolutions and matrix products that end a fusion.
_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "argmax", "argmin")
_OTHERS = ("reduce_window", "reduce_window_max", "reduce_window_sum", "sort", "gather")
_OTHERS += ("select_and_scatter_add", "scatter", "scatter-add", "cumsum", "top_k")


@dataclasses.dataclass(frozen=True)
class Operation:
    """A kernel that touches memory.

    Attributes:
      kind: 'matrix' (convolution or matrix product), 'elementwise' (the pass that
        normalises, activates or adds, one after each matrix), 'reduction' or 'other'.
      times: how often it runs.
      flops: multiplications and additions, without those with padding.
      bytes: read and written.
      sides: M, N, K of the matrix product that it is, or that its convolution makes.
      over_batch: a reduction over the leading axis: an all-reduce where the batch is
        split over devices.
      result: shape of the result.
    """

    kind: str
    times: float
    flops: float
    bytes: float
    sides: tuple[int, int, int] = (1, 1, 1)
    over_batch: bool = False
    result: tuple[int, ...] = ()


def operations(function: Callable[..., Any], *args: Any) -> list[Operation]:
    """Returns the operations of a function on arguments that may be shapes only."""
    return list(_walk(jax.make_jaxpr(function)(*args).jaxpr, 1.0))


def flops(found: list[Operation]) -> float:
    """Returns the floating point operations of a list."""
    return sum(o.times * o.flops for o in found)


def moved(found: list[Operation]) -> float:
    """Returns the bytes read and written by a list."""
    return sum(o.times * o.bytes for o in found)


def _walk(jaxpr: Jaxpr, times: float) -> Iterator[Operation]:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "cond":
            yield from _branch(params, times)
        elif name == "scan":
            yield from _walk(params["jaxpr"].jaxpr, times * params["length"])
        elif name == "conv_general_dilated":
            yield _convolution(equation, times)
            yield _elementwise(equation, times)
        elif name == "dot_general":
            yield _product(equation, times)
            yield _elementwise(equation, times)
        elif name in _REDUCTIONS:
            yield _reduction(equation, times)
        elif name in _OTHERS:
            yield Operation("other", times, 0.0, _bytes(equation))
        else:
            for value in params.values():
                if isinstance(value, ClosedJaxpr):
                    yield from _walk(value.jaxpr, times)
                elif isinstance(value, Jaxpr):
                    yield from _walk(value, times)


def _branch(params: dict[str, Any], times: float) -> list[Operation]:
    """The branch of accelerators where platforms differ, else the dearest one."""
    branches = params["branches"]
    platforms = params.get("branches_platforms")
    if platforms and None in platforms:
        branches = [branches[platforms.index(None)]]
    return max((list(_walk(b.jaxpr, times)) for b in branches), key=flops)


def _convolution(equation: Any, times: float) -> Operation:
    lhs, rhs = (v.aval.shape for v in equation.invars)
    out, p = equation.outvars[0].aval.shape, equation.params
    numbers = p["dimension_numbers"]
    pairs = taps = places = 1
    for i, j, k, stride, pads, lhs_dilation, rhs_dilation in zip(
        numbers.lhs_spec[2:],
        numbers.rhs_spec[2:],
        numbers.out_spec[2:],
        p["window_strides"],
        p["padding"],
        p["lhs_dilation"],
        p["rhs_dilation"],
        strict=True,
    ):
        at = np.arange(out[k])[:, None] * stride - pads[0]
        at = at + np.arange(rhs[j]) * rhs_dilation
        inside = (at >= 0) & (at <= (lhs[i] - 1) * lhs_dilation)
        pairs *= int((inside & (at % lhs_dilation == 0)).sum())
        taps, places = taps * rhs[j], places * out[k]
    batch = lhs[numbers.lhs_spec[0]] // p["batch_group_count"]
    features, depth = rhs[numbers.rhs_spec[0]], rhs[numbers.rhs_spec[1]]
    return Operation(
        "matrix",
        times,
        2.0 * batch * features * depth * pairs,
        _bytes(equation),
        (batch * places, features // p["feature_group_count"], depth * taps),
        result=out,
    )


def _product(equation: Any, times: float) -> Operation:
    lhs, rhs = (v.aval.shape for v in equation.invars)
    (over, _), (alike, _) = equation.params["dimension_numbers"]
    depth = math.prod(lhs[i] for i in over)
    stack = math.prod(lhs[i] for i in alike)
    rows = math.prod(lhs) // (depth * stack)
    columns = math.prod(rhs) // (depth * stack)
    return Operation(
        "matrix",
        times,
        2.0 * stack * rows * columns * depth,
        _bytes(equation),
        (stack * rows, columns, depth),
        result=equation.outvars[0].aval.shape,
    )


def _elementwise(equation: Any, times: float) -> Operation:
    return Operation("elementwise", times, 0.0, 2 * _size(equation.outvars[0]))


def _reduction(equation: Any, times: float) -> Operation:
    # Per channel, over the batch and more: statistics of BatchNorm and their gradients.
    rank = len(equation.invars[0].aval.shape)
    axes = equation.params["axes"]
    return Operation(
        "reduction",
        times,
        0.0,
        _bytes(equation),
        over_batch=0 in axes and rank - 1 not in axes and rank > 2,
    )


def _size(variable: Any) -> int:
    shape, dtype = variable.aval.shape, variable.aval.dtype
    # Keys are the only arrays here whose elements have no size of their own.
    return math.prod(shape) * getattr(dtype, "itemsize", 8)


def _bytes(equation: Any) -> int:
    return sum(map(_size, (*equation.invars, *equation.outvars)))
