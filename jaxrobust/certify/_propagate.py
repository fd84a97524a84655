"""Intervals forwards through a graph, linear forms backwards."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.certify import _affine, _nonlinear, _regions
from jaxrobust.certify._affine import AFFINE, Interval, ulps
from jaxrobust.certify._graph import Graph, Node
from jaxrobust.certify._regions import Region
from jaxrobust.certify._several import Planes

Intervals = Mapping[Node, Interval]
# Of the coefficients that are in memory at a time: 8 MB in float32.
_NUMBERS = 2**21
# Chunks up to which they are written out: on a CPU loops cost, compiling does too.
_WRITTEN_OUT = 2


def is_linear(node: Node) -> bool:
    """Whether a node is affine in its inputs."""
    return node.op in AFFINE and _affine.is_affine(node)


def forward(node: Node, known: Intervals) -> Interval:
    """Returns the interval of a node from those of its inputs."""
    operands = [known[v] if isinstance(v, Node) else v for v in node.inputs]
    if is_linear(node):
        return _affine.interval(node, *operands)
    return _nonlinear.NONLINEAR[node.op].interval(node, *operands)


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
    wanted: set[Node] = set()
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
    """Returns the affine nodes whose intervals forwards are exact.

    One weighted sum of values that are free of each other, and what only moves or
    scales values from there.
    """
    free, exact = (
        ({graph.input}, {graph.input})
        if region is None or region.is_box
        else (set(), set())
    )
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
        if alone and parents <= free and _affine.keeps_box(node):
            free.add(node)
        if alone and (
            parents <= free or (parents <= exact and _affine.keeps_box(node))
        ):
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
    size = node.size
    chunk = min(size, rows or _rows(graph))

    def some(start: Array) -> Array:
        units = jax.nn.one_hot(start + jnp.arange(chunk), size, dtype=node.dtype)
        forms = units.reshape(-1, *node.shape)
        total, last = to_input(graph, node, forms, known, planes, {}, {}, mirrored=True)
        return total if last is None else total + _regions.least(last, region)

    starts = jnp.arange(0, size, chunk)
    if len(starts) <= _WRITTEN_OUT:
        found = jnp.stack([some(start) for start in starts])
    else:
        found = lax.map(some, starts)
    low, high = found[:, :chunk].reshape(-1)[:size], found[:, chunk:].reshape(-1)[:size]
    return Interval(low.reshape(node.shape), -high.reshape(node.shape))


def _rows(graph: Graph) -> int:
    """Returns how many forms, each with its negative, are in memory at a time."""
    return max(1, _NUMBERS // max(one.size for one in graph.nodes) // 2)


def images_at_a_time(graph: Graph) -> int:
    """Returns how many images share that memory when all is asked by forms."""
    most = max([one.size for one in _wanted(graph, None)], default=1)
    return max(1, _rows(graph) // most)


def backward(
    graph: Graph,
    target: Node,
    forms: Array,
    region: Region,
    known: Intervals,
    planes: Mapping[Node, Planes],
    weights: Mapping[Node, Array] | None = None,
    added: Mapping[Node, Array] | None = None,
) -> Array:
    """Returns lower bounds `[R]` of linear forms `[R, *target.shape]` of a node.

    Args:
      graph: of all nodes.
      target: the node of the forms.
      forms: their coefficients.
      region: of the input.
      known: intervals, of the nodes without planes.
      planes: of the others that are not affine.
      weights: of a node's plane below against its other one, in [0, 1].
      added: forms `[R, *node.shape]` of other nodes, whose sum is at most 0 where the
        bounds are asked for: multipliers of what is assumed there.
    """
    total, last = to_input(
        graph, target, forms, known, planes, weights or {}, added or {}
    )
    return total if last is None else total + _regions.least(last, region)


def to_input(
    graph: Graph,
    target: Node,
    forms: Array,
    known: Intervals,
    planes: Mapping[Node, Planes],
    weights: Mapping[Node, Array],
    added: Mapping[Node, Array],
    *,
    mirrored: bool = False,
) -> tuple[Array, Array | None]:
    """Returns what `backward` adds up, and the forms of the input; None for none.

    With `mirrored` of twice as many forms, those given and their negatives, which are
    one as far as all is affine.
    """
    coefficients: dict[Node, Array] = {target: forms}
    total = jnp.zeros(forms.shape[0], forms.dtype)
    size = total
    order = graph.nodes[: graph.nodes.index(target) + 1]
    for node in reversed(order):
        if node is graph.input or node not in coefficients:
            continue
        if mirrored and not is_linear(node):
            mirrored = False
            coefficients = {k: _and_negative(v) for k, v in coefficients.items()}
            total, size = _and_negative(total), jnp.concatenate([size, size])
        here = coefficients.pop(node)
        if node in added:
            here = here + added[node]
        if is_linear(node):
            found, offset = _affine.pull(node, here)
            terms = [] if offset is None else [_times(here, offset)]
        elif node in planes:
            found, terms = _through(node, planes[node], here, weights.get(node))
        else:
            low, high = (end[None] for end in known[node])
            found, terms = [], [_times(here, jnp.where(here > 0, low, high))]
        for parent, one in found:
            before = coefficients.get(parent)
            coefficients[parent] = one if before is None else before + one
        for term in terms:
            axes = tuple(range(1, term.ndim))
            total, size = total + term.sum(axes), size + jnp.abs(term).sum(axes)
    if mirrored:
        coefficients = {k: _and_negative(v) for k, v in coefficients.items()}
        total, size = _and_negative(total), jnp.concatenate([size, size])
    return total - ulps(total.dtype) * size, coefficients.get(graph.input)


def _and_negative(forms: Array) -> Array:
    return jnp.concatenate([forms, -forms])


def _through(
    node: Node, planes: Planes, forms: Array, weight: Array | None
) -> tuple[list[tuple[Node, Array]], list[Array]]:
    """Takes forms through planes: the lower where they rise, the upper where not."""
    up, down = jnp.maximum(forms, 0), jnp.minimum(forms, 0)
    parts = [(up, planes.lower), (down, planes.upper)]
    if weight is not None and planes.other is not None:
        parts = [
            (up * weight, planes.lower),
            (up * (1 - weight), planes.other),
            parts[1],
        ]
    found = []
    for i, parent in enumerate(node.inputs):
        if isinstance(parent, Node):
            terms = [
                planes.spread(a) * _of_forms(plane.slopes[i]) for a, plane in parts
            ]
            # A slope may have no axes, and comparisons count for nothing.
            shape = (forms.shape[0], *parent.shape)
            found.append((parent, jnp.broadcast_to(sum(terms[1:], terms[0]), shape)))
    return found, [_times(a, plane.intercept) for a, plane in parts]


def _times(forms: Array, values: Array) -> Array:
    """Multiplies, 0 by infinity too: where a plane or a maximum does not exist."""
    values = values if values.ndim == forms.ndim else values[None]
    return jnp.where(forms == 0, 0, forms * values)


def _of_forms(slope: Array) -> Array:
    """Gives slopes an axis for the forms; a number is one for all."""
    return slope[None] if jnp.ndim(slope) else slope
