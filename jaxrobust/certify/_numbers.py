"""Where an output is a number for sure.

Bounds are of real numbers. Where a logarithm is of what may be negative, or a sum
overflows, the network may say NaN; a clip behind it has finite bounds all the same, and
a difference of two such values may cancel. So what may be no number is followed on its
own, from where it may begin to all that it reaches.
"""

from collections import ChainMap
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrobust.certify import _affine, _propagate
from jaxrobust.certify import _several as several
from jaxrobust.certify._affine import AFFINE, Interval, without_nan
from jaxrobust.certify._backwards import Intervals
from jaxrobust.certify._graph import Graph, Node

# What may be no number, or infinite, of numbers of usual size.
_PARTIAL = ("exp", "log", "sqrt", "rsqrt", "reciprocal")
# Of these, those that are numbers from 0 on alone.
_ROOTS = ("log", "sqrt", "rsqrt")
# What is not affine and may grow beyond all numbers, or multiply infinity by 0.
_PRODUCTS = ("mul", "dot_general", "square", "odd_power", "even_power")


def read_by(forms: Array, graph: Graph, known: Intervals) -> Bool[Array, " R"]:
    """Says which forms `[R, *out]` read a value that may be no number."""
    lost = (forms != 0) & doubtful(graph, known)[None]
    return jnp.any(lost, axis=tuple(range(1, forms.ndim)))


def doubtful(graph: Graph, known: Intervals) -> Bool[Array, "..."]:
    """Says which values of a graph's output may be no number, `[*out]`.

    Args:
      graph: of a function.
      known: intervals, of the inputs of all that is not affine at least.
    """
    lost = jnp.zeros((), bool)
    for node in graph.assumed:
        for end in known[node]:
            lost |= ~jnp.all(jnp.isfinite(end))
    if any(node.op in _PARTIAL for node in graph.nodes):
        return lost | _followed(graph, known)
    return jnp.broadcast_to(lost | _overflows(graph, known), graph.output.shape)


def _overflows(graph: Graph, known: Intervals) -> Bool[Array, ""]:
    """Whether anything may be infinite where all functions make numbers of numbers.

    Affine operations hand on what is: it is looked for where they end.
    """
    looked_at = {_origin(graph.output): None}
    for node in graph.nodes:
        if node.inputs and not _affine.is_linear(node):
            looked_at |= {_origin(parent): None for parent in node.parents}
    made: dict[Node, Interval] = {}
    if not all(node in known for node in graph.nodes):
        # A bound by forms may be finite where the sums inside are not.
        operands = ChainMap(dict(known), made)
        for node in graph.nodes:
            if _affine.is_linear(node) or node not in known:
                made[node] = _propagate.forward(node, operands)
    total = jnp.zeros((), graph.input.dtype)
    for node in looked_at:
        if not _makes_larger(node):
            continue
        low, high = made[node] if node in made else known[node]
        # No number if an end is none; a sum of products is quick.
        total = total + jnp.sum(jnp.where(low == high, 0, (high - low) * 0))
    return jnp.isnan(total)


def _origin(node: Node) -> Node:
    """Returns where a value comes from that is only moved."""
    while _affine.is_linear(node) and not _makes_larger(node):
        (node,) = node.parents
    return node


def _makes_larger(node: Node) -> bool:
    """Whether a node may be infinite where its inputs are not."""
    if not node.inputs or not _affine.is_linear(node):
        return not node.inputs or node.op in _PRODUCTS
    one = AFFINE[node.op]
    return one.rounds or one.offset or len(node.parents) > 1


def _followed(graph: Graph, known: Intervals) -> Bool[Array, "..."]:
    """Follows doubts through a graph, value by value."""
    seen = dict(known)
    lost = {graph.input: _endless(known[graph.input])}
    ends = dict(lost)  # what may be infinite
    for node in graph.nodes:
        if node is graph.input:
            continue
        found = _interval(node, seen)
        seen.setdefault(node, without_nan(found))
        ends[node] = _endless(without_nan(found))
        if _affine.is_linear(node):
            reads = {p: lost[p] for p in node.parents}
            if AFFINE[node.op].rounds:
                # A sum of infinities may be no number.
                reads = {p: lost[p] | ends[p] for p in node.parents}
            marks = _through_affine(node, reads)
            lost[node] = marks | jnp.isnan(found.lower) | jnp.isnan(found.upper)
        else:
            lost[node] = _through_function(node, seen, lost, ends)
    return lost[graph.output] | ends[graph.output]


def _interval(node: Node, seen: Intervals) -> Interval:
    """Returns the interval of a node, NaN where infinities of either sign meet."""
    if not _affine.is_linear(node):
        return _propagate.forward(node, seen)
    operands = [seen[v] if isinstance(v, Node) else v for v in node.inputs]
    return _affine.interval(node, *operands)


def _endless(interval: Interval) -> Bool[Array, "..."]:
    """Says where an end is infinite, but for a value that is known to be."""
    low, high = interval
    return ~(jnp.isfinite(low) & jnp.isfinite(high)) & (low != high)


def _through_affine(node: Node, reads: Mapping[Node, Array]) -> Bool[Array, "..."]:
    """Says which values read a marked one, with a factor of 0 too."""
    zeros = [jnp.zeros(p.shape, p.dtype) for p in node.parents]
    moves = [jnp.where(reads[p], jnp.inf, 0).astype(p.dtype) for p in node.parents]
    return ~jnp.isfinite(jax.jvp(_affine.of_parents(node), zeros, moves)[1])


def _through_function(
    node: Node,
    seen: Intervals,
    lost: Mapping[Node, Array],
    ends: Mapping[Node, Array],
) -> Bool[Array, "..."]:
    """Says which values of what is not affine may be no number."""
    if node.op == "select":
        return _chosen(node, seen, lost)
    found = jnp.zeros(node.shape, bool)
    for parent in node.parents:
        marks = lost[parent]
        if node.op in _PRODUCTS:
            marks |= ends[parent]
        if node.op in _ROOTS:
            marks |= ~(seen[parent].lower >= 0)
        found |= _reached(node, parent, marks)
    return found


def _reached(node: Node, parent: Node, marks: Array) -> Bool[Array, "..."]:
    """Says which values of a function read marked ones of a parent."""
    if node.op == "reduce_max":
        return jnp.any(marks, axis=tuple(node.params["axes"]))
    if node.op == "dot_general":
        operands = [
            marks.astype(node.dtype)
            if value is parent
            else jnp.ones(value.shape, node.dtype)
            for value in node.inputs
        ]
        return node.apply(*operands) > 0
    return jnp.broadcast_to(marks, node.shape)


def _chosen(
    node: Node, seen: Intervals, lost: Mapping[Node, Array]
) -> Bool[Array, "..."]:
    """Says which values of a selection read a marked one: those that are chosen."""

    def of(value: object) -> Array:
        marked = lost[value] if isinstance(value, Node) else jnp.zeros((), bool)
        return jnp.broadcast_to(marked, node.shape)

    a, b = (seen[v] if isinstance(v, Node) else v for v in node.inputs[:2])
    sure, never = several.decided(a, b, node.shape)
    one, other, no, yes = map(of, node.inputs)
    either = jnp.where(sure, yes, jnp.where(never, no, yes | no))
    return one | other | either
