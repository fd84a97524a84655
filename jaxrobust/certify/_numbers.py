"""Where an output is a number for sure.

Bounds are of real numbers. Where the input of a logarithm may not be positive, or a
number may be too large, the network may say NaN; a clip behind it has finite bounds all
the same, and a difference of two such values may cancel. So what is no number for sure
is followed on its own, from where it may begin to all that it reaches.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrobust.certify import _affine, _propagate
from jaxrobust.certify import _several as several
from jaxrobust.certify._affine import Interval
from jaxrobust.certify._backwards import Intervals
from jaxrobust.certify._graph import Graph, Node

# What may give no number, or an infinite one, of numbers of usual size.
_PARTIAL = ("exp", "log", "sqrt", "rsqrt", "reciprocal")


def doubtful(graph: Graph, known: Intervals) -> Bool[Array, "..."]:
    """Says which values of a graph's output may be no number, `[*out]`.

    Args:
      graph: of a function.
      known: intervals, of the inputs of all that is not affine at least.
    """
    shape = graph.output.shape
    # What a condition was left out for, and without what is partial: any doubt counts.
    partial = any(node.op in _PARTIAL for node in graph.nodes)
    looked_at = graph.assumed if partial else list(known)
    lost = jnp.zeros((), bool)
    for node in looked_at:
        lost |= jnp.any(_endless(known[node]))
    lost = jnp.broadcast_to(lost, shape)
    return lost | _followed(graph, known) if partial else lost


def read_by(forms: Array, graph: Graph, known: Intervals) -> Bool[Array, " R"]:
    """Says which forms `[R, *out]` read a value that may be no number."""
    lost = (forms != 0) & doubtful(graph, known)[None]
    return jnp.any(lost, axis=tuple(range(1, forms.ndim)))


def _endless(interval: Interval) -> Bool[Array, "..."]:
    """Says where an end is infinite, but for a value that is known to be."""
    low, high = interval
    return ~(jnp.isfinite(low) & jnp.isfinite(high)) & (low != high)


def _followed(graph: Graph, known: Intervals) -> Bool[Array, "..."]:
    """Follows doubts through a graph, value by value."""
    lost = {graph.input: _endless(known[graph.input])}
    for node in graph.nodes:
        if node is graph.input:
            continue
        if _affine.is_linear(node):
            lost[node] = _through_affine(node, lost)
        else:
            found = _endless(_propagate.forward(node, known))
            for parent in node.parents:
                found |= _reached(node, parent, _endless(known[parent]))
            lost[node] = found | _through_function(node, known, lost)
    return lost[graph.output]


def _through_affine(node: Node, lost: Mapping[Node, Array]) -> Bool[Array, "..."]:
    """Says which values read a doubtful one, with a factor of 0 too."""
    places = [i for i, v in enumerate(node.inputs) if isinstance(v, Node)]

    def at(*values: Array) -> Array:
        inputs = list(node.inputs)
        for place, value in zip(places, values, strict=True):
            inputs[place] = value
        return node.apply(*inputs)

    zeros = [jnp.zeros(p.shape, p.dtype) for p in node.parents]
    moves = [jnp.where(lost[p], jnp.inf, 0).astype(p.dtype) for p in node.parents]
    return ~jnp.isfinite(jax.jvp(at, zeros, moves)[1])


def _through_function(
    node: Node, known: Intervals, lost: Mapping[Node, Array]
) -> Bool[Array, "..."]:
    """Says which values of what is not affine read a doubtful one."""
    if node.op == "select":
        return _chosen(node, known, lost)
    found = jnp.zeros(node.shape, bool)
    for parent in node.parents:
        found |= _reached(node, parent, lost[parent])
    return found


def _reached(node: Node, parent: Node, lost: Array) -> Bool[Array, "..."]:
    """Says which values of a function read those of a parent that are marked."""
    if node.op == "select":  # only what is chosen, see `_chosen`
        return jnp.zeros(node.shape, bool)
    if node.op == "reduce_max":
        return jnp.any(lost, axis=tuple(node.params["axes"]))
    if node.op == "dot_general":
        operands = [
            lost.astype(node.dtype) if value is parent else jnp.ones(value.shape)
            for value in node.inputs
        ]
        return node.apply(*operands) > 0
    return jnp.broadcast_to(lost, node.shape)


def _chosen(
    node: Node, known: Intervals, lost: Mapping[Node, Array]
) -> Bool[Array, "..."]:
    """Says which values of a selection read a doubtful one: those that are chosen."""

    def of(value: object) -> Array:
        marked = lost[value] if isinstance(value, Node) else jnp.zeros((), bool)
        return jnp.broadcast_to(marked, node.shape)

    a, b = (known[v] if isinstance(v, Node) else v for v in node.inputs[:2])
    sure, never = several.decided(a, b, node.shape)
    one, other, no, yes = map(of, node.inputs)
    either = jnp.where(sure, yes, jnp.where(never, no, yes | no))
    return one | other | either
