"""Linear forms backwards through a graph."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.certify import _affine, _regions
from jaxrobust.certify._affine import Interval, is_linear, ulps
from jaxrobust.certify._graph import Graph, Node
from jaxrobust.certify._regions import Region
from jaxrobust.certify._several import Planes

Intervals = Mapping[Node, Interval]


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
