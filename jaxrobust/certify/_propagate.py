"""Intervals of the nodes of a graph: forwards, or by linear forms backwards."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.certify import (
    _affine,
    _backwards,
    _crops,
    _nonlinear,
    _regions,
    _windows,
)
from jaxrobust.certify._affine import AFFINE, Interval, is_linear, without_nan
from jaxrobust.certify._backwards import Intervals
from jaxrobust.certify._graph import Graph, Node
from jaxrobust.certify._regions import Region
from jaxrobust.certify._several import Planes
from jaxrobust.certify._windows import WindowPlan

# Of the coefficients that are in memory at a time: 8 MB in float32.
_NUMBERS = 2**21
# Chunks up to which they are written out: on a CPU loops cost, compiling does too.
_WRITTEN_OUT = 2
# What is not affine, and where forms may know of values what their intervals do not.
_TOGETHER = ("mul", "dot_general", "select")


def forward(node: Node, known: Intervals) -> Interval:
    """Returns the interval of a node from those of its inputs."""
    operands = [known[v] if isinstance(v, Node) else v for v in node.inputs]
    if is_linear(node):
        return without_nan(_affine.interval(node, *operands))
    return without_nan(_nonlinear.NONLINEAR[node.op].interval(node, *operands))


def by_intervals(graph: Graph, region: Region) -> dict[Node, Interval]:
    """Returns the interval of each node, from that of the input (Gowal et al. 2018)."""
    known = {graph.input: region.box}
    for node in graph.nodes:
        if node is graph.input:
            continue
        if not region.is_box and _feeds_from_input(node, graph):
            known[node] = extremes(graph, node, region, known, {})
        else:
            known[node] = forward(node, known)
    return known


def _feeds_from_input(node: Node, graph: Graph) -> bool:
    """Whether a node is a weighted sum of the input itself, where a ball matters."""
    return is_linear(node) and AFFINE[node.op].mixes and _before(node, graph)


def _before(node: Node, graph: Graph) -> bool:
    """Whether a node is affine in the input."""
    stack, seen = [node], set()
    while stack:
        one = stack.pop()
        if one is graph.input or one in seen:
            continue
        if not is_linear(one):
            return False
        seen.add(one)
        stack += one.parents
    return True


def by_forms(
    graph: Graph,
    region: Region,
    rows: int | None = None,
    signs: Mapping[Node, Array] | None = None,
) -> tuple[dict[Node, Interval], dict[Node, Planes]]:
    """Returns the intervals that planes are made of, each by linear forms backwards.

    Equations 10 to 13 of Zhang et al. 2018 (CROWN), of the inputs of what is not
    affine. `rows` of forms are in memory at a time; `signs` are what is assumed of a
    node's values, 1 or -1, or 0 for nothing.
    """
    known: dict[Node, Interval] = {graph.input: region.box}
    planes: dict[Node, Planes] = {}
    wanted, boxes = _wanted(graph, region), _boxes(graph, region)
    for node in graph.nodes:
        if node in wanted and node is not graph.input:
            if is_linear(node) and node not in boxes:
                known[node] = extremes(graph, node, region, known, planes, rows)
            else:
                known[node] = forward(node, known)
            if signs and node in signs:
                known[node] = _cut(known[node], signs[node])
        if not is_linear(node) and node is not graph.input:
            planes.update(_planes(node, known))
    return known, planes


def _cut(interval: Interval, signs: Array) -> Interval:
    """Cuts an interval to values of a sign."""
    low, high = interval
    return Interval(
        jnp.where(signs > 0, jnp.maximum(low, 0), low),
        jnp.where(signs < 0, jnp.minimum(high, 0), high),
    )


def _wanted(graph: Graph, region: Region | None) -> set[Node]:
    """Returns the nodes whose intervals are asked for, by planes or by each other."""
    boxes = _boxes(graph, region)
    wanted: set[Node] = set(graph.assumed)
    for node in reversed(graph.nodes):
        if node is graph.input:
            continue
        opaque = not is_linear(node)
        if opaque or (node in wanted and node in boxes):
            wanted.update(node.parents)
            # Without planes linear forms end at the interval.
        if opaque and _nonlinear.NONLINEAR[node.op].relax is None:
            wanted.add(node)
    return wanted


def _boxes(graph: Graph, region: Region | None) -> set[Node]:
    """Returns the affine nodes whose intervals forwards are as good as by forms.

    One weighted sum of values that are free of each other, where they are exact, and
    what only moves or scales values from there, or those of a function.
    """
    free, exact = (
        ({graph.input}, {graph.input})
        if region is None or region.is_box
        else (set(), set())
    )
    functions = {
        node
        for node in graph.nodes
        if node is not graph.input and not is_linear(node) and node.op not in _TOGETHER
    }
    for node in graph.nodes:
        if node is graph.input:
            continue
        if not is_linear(node):
            # A function of each value alone keeps them free.
            if (
                len(set(node.parents)) == 1
                and node.parents[0] in free
                and (
                    node.op not in ("reduce_max", "dot_general", "max", "select")
                    or (node.op == "max" and len(node.parents) == 1)
                )
            ):
                free.add(node)
                exact.add(node)
            continue
        parents = set(node.parents)
        alone = len(node.parents) == 1
        if _affine.keeps_box(node) and parents <= free:
            free.add(node)
        if _affine.reads_one(node) and parents <= exact | functions:
            exact.add(node)
        if alone and parents <= free:
            exact.add(node)
    return exact


def _planes(node: Node, known: Intervals) -> dict[Node, Planes]:
    relax = _nonlinear.NONLINEAR[node.op].relax
    if relax is None:
        return {}
    operands = [known[v] if isinstance(v, Node) else v for v in node.inputs]
    return {node: relax(node, *operands)}


def all_planes(graph: Graph, known: Intervals) -> dict[Node, Planes]:
    """Returns the planes of all nodes that are not affine and have some."""
    planes: dict[Node, Planes] = {}
    for node in graph.nodes:
        if node is not graph.input and not is_linear(node):
            planes.update(_planes(node, known))
    return planes


def extremes(
    graph: Graph,
    node: Node,
    region: Region,
    known: Intervals,
    planes: Mapping[Node, Planes],
    rows: int | None = None,
) -> Interval:
    """Returns the interval of each value of a node by linear forms."""
    found = _windows.plan(graph, node, planes)
    if found is not None:
        return _by_windows(found, region, known, planes, rows)
    size = node.size
    if not size:
        nothing = jnp.zeros(node.shape, node.dtype)
        return Interval(nothing, nothing)
    chunk = min(size, rows or _rows(graph))

    def some(start: Array) -> Array:
        units = jax.nn.one_hot(start + jnp.arange(chunk), size, dtype=node.dtype)
        forms = units.reshape(-1, *node.shape)
        return _both_ways(graph, node, forms, region, known, planes)

    starts = jnp.arange(0, size, chunk)
    if len(starts) <= _WRITTEN_OUT:
        found = jnp.stack([some(start) for start in starts])
    else:
        found = lax.map(some, starts)
    low, high = found[:, :chunk].reshape(-1)[:size], found[:, chunk:].reshape(-1)[:size]
    found = Interval(low.reshape(node.shape), -high.reshape(node.shape))
    return without_nan(found)


def _by_windows(
    plan: WindowPlan,
    region: Region,
    known: Intervals,
    planes: Mapping[Node, Planes],
    rows: int | None,
) -> Interval:
    """Returns the interval of each value of a layer, place by place."""
    *_, height, width, channels = plan.target.shape

    def some(place: Array) -> Array:
        near = _crops.crop(plan, place, known, planes, region)
        target = near.graph.output
        forms = jnp.eye(channels, dtype=target.dtype).reshape(-1, *target.shape)
        return _both_ways(
            near.graph, target, forms, near.region, near.known, near.planes
        )

    places = jnp.stack(jnp.divmod(jnp.arange(height * width), width), 1)
    at_once = max(1, (rows or _NUMBERS // plan.largest // 2) // channels)
    if len(places) <= at_once:
        found = jax.vmap(some)(places)
    else:
        found = lax.map(some, places, batch_size=at_once)
    shape = plan.target.shape
    low, high = found[:, :channels].reshape(shape), found[:, channels:].reshape(shape)
    return without_nan(Interval(low, -high))


def _both_ways(
    graph: Graph,
    node: Node,
    forms: Array,
    region: Region,
    known: Intervals,
    planes: Mapping[Node, Planes],
) -> Array:
    """Returns lower bounds of forms, then of their negatives."""
    total, last = _backwards.to_input(
        graph, node, forms, known, planes, {}, {}, mirrored=True
    )
    return total if last is None else total + _regions.least(last, region)


def _rows(graph: Graph) -> int:
    """Returns how many forms, each with its negative, are in memory at a time."""
    return max(1, _NUMBERS // max(1, *(one.size for one in graph.nodes)) // 2)


def images_at_a_time(graph: Graph) -> int:
    """Returns how many images share that memory when all is asked by forms."""
    whole = max((one.size for one in graph.nodes), default=1)
    most = 1
    for node in _wanted(graph, None):
        found = _windows.plan(graph, node, {})
        most = max(most, 2 * node.size * (found.largest if found else whole))
    return max(1, _NUMBERS // most)
