"""The values of a layer of an image, each over the window that it depends on.

A form of a value behind convolutions has coefficients in a window alone (the patches
of auto_LiRPA), which moves with the value's place.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer

from jaxrobust.certify._affine import is_linear
from jaxrobust.certify._graph import Graph, Node
from jaxrobust.certify._several import Planes

_ONE_BY_ONE = ("add", "add_any", "sub", "mul", "div", "neg", "convert_element_type")
_ONE_BY_ONE += ("copy", "copy_p")
AXES_ALONE = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims")
_NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
# Windows pay where they are at most this share of what they are cut from.
_SHARE = 0.5


class Reach(NamedTuple):
    """Rows, and columns, `stride * place + first` and the next ones, `size` in all."""

    stride: tuple[int, int]
    first: tuple[int, int]
    size: tuple[int, int]


class Move(NamedTuple):
    """Value i of a row, and of a column, is computed from `extent` of the parent.

    They start at `stride * i - before`.
    """

    stride: tuple[int, int]
    extent: tuple[int, int]
    before: tuple[int, int]


class _NotLocal(Exception):
    """A layer is no function of windows that move evenly with the place."""


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """The window of each node that a layer `[.., H, W, C]` is computed from, in order.

    `largest` is the size of the largest.
    """

    target: Node
    windows: Mapping[Node, Reach]
    largest: int


def plan(
    graph: Graph, target: Node, planes: Mapping[Node, Planes]
) -> WindowPlan | None:
    """Returns the windows of a layer; None where they are not, or do not pay."""
    if not _is_image(target):
        return None
    found = {target: Reach((1, 1), (0, 0), (1, 1))}
    order = graph.nodes[: graph.nodes.index(target) + 1]
    try:
        for node in reversed(order):
            if node not in found:
                continue
            if node in planes and not _moves_with(planes[node], node):
                return None
            for parent, window in read(node, found[node]):
                found[parent] = _hull(found.get(parent, window), window)
    except _NotLocal:
        return None
    windows = {node: found[node] for node in order if node in found}
    sizes = [math.prod(w.size) * node.shape[-1] for node, w in windows.items()]
    if sum(sizes) > _SHARE * sum(node.size for node in windows):
        return None
    return WindowPlan(target, windows, max(sizes)) if graph.input in windows else None


def _is_image(node: Node) -> bool:
    return len(node.shape) == 3 or (len(node.shape) == 4 and node.shape[0] == 1)


def _hull(one: Reach, other: Reach) -> Reach:
    """Returns the smallest window around two."""
    if one.stride != other.stride:
        raise _NotLocal
    first = [min(pair) for pair in zip(one.first, other.first, strict=True)]
    size = [
        max(a.first[i] + a.size[i] for a in (one, other)) - first[i] for i in (0, 1)
    ]
    return Reach(one.stride, two(first), two(size))


def two(values: Sequence[int]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def read(node: Node, window: Reach) -> Iterator[tuple[Node, Reach]]:
    """Yields each parent with what a window of a node is computed from.

    Raises:
      _NotLocal: where it is not a window.
    """
    if not all(map(_is_image, (node, *node.parents))):
        raise _NotLocal
    if (move := move_of(node)) is not None:
        axes = list(zip(*window, *move, strict=True))
        yield (
            node.parents[0],
            Reach(
                two([s * by for s, _, _, by, _, _ in axes]),
                two([first * by - before for _, first, _, by, _, before in axes]),
                two([(size - 1) * by + extent for _, _, size, by, extent, _ in axes]),
            ),
        )
        return
    alike = all(one.shape[-3:] == node.shape[-3:] for one in node.parents)
    if not alike or (is_linear(node) and node.op not in _ONE_BY_ONE + AXES_ALONE):
        raise _NotLocal
    for parent in node.parents:
        yield parent, window


def move_of(node: Node) -> Move | None:
    """Returns how a node moves over its parent; None where it does not.

    Raises:
      _NotLocal: where it moves over more than rows and columns.
    """
    p, ones = node.params, (1,) * len(node.shape)
    match node.op:
        case "conv_general_dilated":
            kernel = node.inputs[1]
            plain = tuple(p["dimension_numbers"]) == _NHWC and is_linear(node)
            if (
                not plain
                or p["batch_group_count"] != 1
                or set(p["lhs_dilation"]) != {1}
            ):
                raise _NotLocal
            extent = _extent(kernel.shape[:2], p["rhs_dilation"])
            return Move(two(p["window_strides"]), extent, _lows(p["padding"]))
        case "reduce_window_sum":
            size, strides = p["window_dimensions"], p["window_strides"]
            outside = [(*v[:-3], v[-1]) for v in (size, strides, p["padding"])]
            alone = [*outside[0], *outside[1], *p["base_dilation"]]
            if set(alone) != {1} or any(map(any, outside[2])):
                raise _NotLocal
            extent = _extent(size[-3:-1], p["window_dilation"][-3:-1])
            return Move(two(strides[-3:-1]), extent, _lows(p["padding"][-3:-1]))
        case "slice":
            start, by = p["start_indices"], p["strides"] or ones
            if node.shape[-1] != node.parents[0].shape[-1] or by[-1] != 1:
                raise _NotLocal
            return Move(two(by[-3:-1]), (1, 1), two([-v for v in start[-3:-1]]))
        case "pad":
            rest = [*p["padding_config"][:-3], p["padding_config"][-1]]
            low, _, inner = zip(*p["padding_config"], strict=True)
            if any(map(any, rest)) or any(inner) or not _is_zero(node.inputs[1]):
                raise _NotLocal
            return Move((1, 1), (1, 1), two(low[-3:-1]))
    return None


def _extent(size: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    return two([(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)])


def _lows(padding: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return two([low for low, _ in padding])


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tracer) and bool((np.asarray(value) == 0).all())


def _moves_with(planes: Planes, node: Node) -> bool:
    """Whether planes are of each value alone, of inputs shaped like the node."""
    every = [p for p in (planes.lower, planes.upper, planes.other) if p is not None]
    slopes = [v for plane in every for v in plane.slopes if v is not None]
    plain = planes.spread is Planes._field_defaults["spread"]
    # One number would be an intercept outside of the image too, where zeros stand.
    return (
        plain
        and all(np.shape(v) in ((), node.shape) for v in slopes)
        and all(np.shape(plane.intercept) == node.shape for plane in every)
    )
