"""A graph cut to the window of one place.

Each place has the same graph with other constants, planes and intervals. Outside the
image stand zeros, as a convolution pads.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxrobust.certify._affine import Interval, is_linear
from jaxrobust.certify._graph import Graph, Node
from jaxrobust.certify._regions import Region
from jaxrobust.certify._several import Plane, Planes
from jaxrobust.certify._windows import AXES_ALONE, Reach, WindowPlan, move_of, read, two

# Numbers of a matrix up to which its product is faster than a small convolution.
_MATRIX = 2**17


class Crop(NamedTuple):
    """The graph of one place; its output is `[.., 1, 1, C]`."""

    graph: Graph
    known: Mapping[Node, Interval]
    planes: Mapping[Node, Planes]
    region: Region


def crop(
    plan: WindowPlan,
    place: Array,
    known: Mapping[Node, Interval],
    planes: Mapping[Node, Planes],
    region: Region,
) -> Crop:
    """Returns the graph of a place `[2]`, its row and its column."""
    made: dict[Node, Node] = {}
    order: list[Node] = []
    near: dict[Node, Planes] = {}
    boxes: dict[Node, Interval] = {}
    for node, window in plan.windows.items():
        cut = _Cut(node.shape, window, place, plan.target.shape[-3:-1])
        parts = _parts(plan, node, made, order)
        one = _cropped(node, cut, parts)
        if one not in order:
            order.append(one)
        if node in planes:
            near[one] = _of_planes(planes[node], cut)
        elif node.inputs and not is_linear(node):
            boxes[one] = Interval(*map(cut.of, known[node]))
        if cut.leaves and (not node.inputs or move_of(node)):
            mask = cut.of(jnp.ones(node.shape, node.dtype))
            one = Node("mul", (one, mask), one.shape, one.dtype, jnp.multiply, {})
            order.append(one)
        made[node] = one
        if not node.inputs:
            region = _of_region(region, cut)
    graph = Graph(order[0], made[plan.target], tuple(order))
    return Crop(graph, boxes, near, region)


def _parts(
    plan: WindowPlan, node: Node, made: Mapping[Node, Node], order: list[Node]
) -> list[Any]:
    """Returns the inputs of a node, nodes cut to what this one reads of them."""
    wanted = dict(read(node, plan.windows[node]))
    parts: list[Any] = []
    for value in node.inputs:
        if isinstance(value, Node):
            whole, part, one = plan.windows[value], wanted[value], made[value]
            if part != whole:
                start = [a - b for a, b in zip(part.first, whole.first, strict=True)]
                one = _slice(one, start, part.size, (1, 1))
                order.append(one)
            parts.append(one)
        else:
            parts.append(value)
    return parts


class _Cut:
    """Takes the window of a node at a place out of arrays shaped like the node."""

    def __init__(
        self,
        shape: Sequence[int],
        window: Reach,
        place: Array,
        places: Sequence[int],
    ):
        self.shape, self.window = tuple(shape), window
        last = [
            (n - 1) * by + first + size - length
            for n, by, first, size, length in zip(
                places, *window, shape[-3:-1], strict=True
            )
        ]
        # How far windows reach outside.
        self.room = [
            (max(0, -low), max(0, high))
            for low, high in zip(window.first, last, strict=True)
        ]
        before = jnp.array([low for low, _ in self.room])
        start = place * jnp.array(window.stride) + jnp.array(window.first) + before
        self.start = [*([0] * (len(shape) - 3)), start[0], start[1], 0]

    @property
    def leaves(self) -> bool:
        """Whether windows of some places reach outside of the image."""
        return any(map(any, self.room))

    @property
    def size(self) -> tuple[int, ...]:
        """Returns the shape of what is taken."""
        return (*self.shape[:-3], *self.window.size, self.shape[-1])

    def of(self, value: Any, outside: float = 0.0) -> Any:
        """Returns the window of an array; numbers and None pass."""
        if value is None or not np.ndim(value):
            return value
        around = [(0, 0)] * (len(self.shape) - 3) + [*self.room, (0, 0)]
        padded = jnp.pad(jnp.asarray(value), around, constant_values=outside)
        return lax.dynamic_slice(padded, self.start, self.size)


def _of_planes(planes: Planes, cut: _Cut) -> Planes:
    lower, upper, other = (
        one and Plane([cut.of(v) for v in one.slopes], cut.of(one.intercept))
        for one in (planes.lower, planes.upper, planes.other)
    )
    assert lower is not None
    assert upper is not None
    return Planes(lower, upper, other=other)


def _of_region(region: Region, cut: _Cut) -> Region:
    ends = cut.of(region.lower), cut.of(region.upper)
    if region.is_box:
        return Region(*ends)
    return Region(*ends, cut.of(region.centre), region.eps, region.norm)


def _cropped(node: Node, cut: _Cut, parts: Sequence[Any]) -> Node:
    """Returns the node of a window, of the windows of its parents."""
    if node.op == "pad":
        # Its parent's window has zeros where it reaches outside.
        return parts[0]
    if node.op == "slice":
        by = node.params["strides"] or (1,) * len(node.shape)
        return _slice(parts[0], (0, 0), cut.window.size, two(by[-3:-1]))
    if node.op in ("conv_general_dilated", "reduce_window_sum"):
        return _over_a_window(node, cut.size, parts)
    if node.op in AXES_ALONE:
        apply = lambda x: x.reshape(cut.size)  # noqa: E731
        return Node("reshape", (parts[0],), cut.size, node.dtype, apply, {})
    # Outside, where nothing is asked for, a quotient must exist.
    outside = 1.0 if node.op == "div" else 0.0
    inputs = [
        one
        if isinstance(one, Node)
        else cut.of(jnp.broadcast_to(one, node.shape), outside)
        for one in parts
    ]
    return Node(node.op, tuple(inputs), cut.size, node.dtype, node.apply, node.params)


def _slice(
    node: Node, start: Sequence[int], size: Sequence[int], by: Sequence[int]
) -> Node:
    """Returns rows and columns of a node."""
    ends = [a + (n - 1) * s + 1 for a, n, s in zip(start, size, by, strict=True)]
    rows, columns = (slice(*one) for one in zip(start, ends, by, strict=True))
    apply = lambda x: x[..., rows, columns, :]  # noqa: E731
    shape = (*node.shape[:-3], *size, node.shape[-1])
    return Node("slice", (node,), shape, node.dtype, apply, {})


def _over_a_window(node: Node, size: tuple[int, ...], parts: Sequence[Any]) -> Node:
    """Returns a convolution, or a sum over windows, without padding."""
    p, x = node.params, parts[0]
    pads = ((0, 0),) * len(node.shape)
    if node.op == "conv_general_dilated":
        p = {**p, "padding": pads[:2]}
        names = ("window_strides", "padding", "rhs_dilation", "dimension_numbers")
        given = {k: p[k] for k in (*names, "feature_group_count", "precision")}
        apply = functools.partial(lax.conv_general_dilated, **given)
    else:
        by, size_of_sums = p["window_strides"], p["window_dimensions"]
        apply = lambda x: lax.reduce_window(  # noqa: E731
            x, 0.0, lax.add, size_of_sums, by, pads, None, p["window_dilation"]
        )
    if x.size * math.prod(size) > _MATRIX:
        return Node(node.op, tuple(parts), size, node.dtype, apply, p)
    units = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    rows = jax.vmap(lambda unit: apply(unit, *parts[1:]))(units)
    matrix = rows.reshape(x.size, -1)

    def product(x: Array, matrix: Array) -> Array:
        flat = jnp.matmul(x.reshape(-1), matrix, precision=lax.Precision.HIGHEST)
        return flat.reshape(size)

    return Node("dot_general", (x, matrix), size, node.dtype, product, {})
