"""Planes below ReLUs and maxima, moved to where the bounds are best.

Alpha-CROWN of Xu et al. 2021 (arXiv 2011.13824), section 3.2, for the last forms: the
intervals inside stay those of CROWN. Every choice of the planes is a proof.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from jaxrobust._shards import varied_alike
from jaxrobust.certify import _backwards
from jaxrobust.certify._affine import Interval
from jaxrobust.certify._graph import Graph, Node
from jaxrobust.certify._regions import Region
from jaxrobust.certify._several import Planes

# Steps of Adam, and its rate: as in the paper's code, which decays it to a tenth.
_STEPS, _RATE, _LAST = 20, 0.1, 0.01


def best(
    graph: Graph,
    forms: Array,
    region: Region,
    known: Mapping[Node, Interval],
    planes: Mapping[Node, Planes],
) -> Array:
    """Returns the best lower bounds `[R]` of forms that the steps came by."""
    moved = [node for node in planes if planes[node].other is not None]

    def bounds(weights: list[Array]) -> Array:
        given = dict(zip(moved, weights, strict=True))
        return _backwards.backward(
            graph, graph.output, forms, region, known, planes, given
        )

    weights = [jnp.ones((forms.shape[0], *n.shape), n.dtype) for n in moved]
    if not moved:
        return bounds(weights)
    tx = optax.adam(optax.exponential_decay(_RATE, _STEPS, _LAST / _RATE))

    def total(weights: list[Array]) -> tuple[Array, Array]:
        found = bounds(weights)
        return -jnp.sum(found), found

    def step(_: int, carry: Any) -> Any:
        weights, state, best, highest = carry
        slopes, found = jax.grad(total, has_aux=True)(weights)
        better = found > highest
        best = [_rows(better, w, b) for w, b in zip(weights, best, strict=True)]
        updates: Any
        updates, state = tx.update(slopes, state)
        weights = [jnp.clip(w + u, 0, 1) for w, u in zip(weights, updates, strict=True)]
        return weights, state, best, jnp.maximum(highest, found)

    lowest = jnp.full(forms.shape[0], -jnp.inf, forms.dtype)
    start = varied_alike((weights, tx.init(weights), weights, lowest))
    # One more than the steps that move: the last weights are looked at too.
    *_, best, _ = lax.fori_loop(0, _STEPS + 1, step, start)
    # Where the planes are best their choice has no derivative, and Adam none at all.
    return bounds(lax.stop_gradient(best))


def _rows(chosen: Array, one: Array, other: Array) -> Array:
    """Takes rows of the one where they are chosen."""
    return jnp.where(chosen.reshape(-1, *[1] * (one.ndim - 1)), one, other)
