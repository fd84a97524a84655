"""Functions of JAX that have a better rule than their parts together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.certify import _graph
from jaxrobust.certify._graph import Node, apply, new

Rewrite = Callable[[Any, Sequence[Any]], Sequence[Any] | None]
# What a maximum goes through to where it is subtracted.
_SPREADS = ("broadcast_in_dim", "reshape", "expand_dims", "copy", "squeeze")


def exp_of_shifted(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Says that x - max x is at most 0, so that its exp does not overflow."""
    (moved,) = values
    if _maximum_in(moved) is None:
        return None
    capped = new("min", (moved, np.zeros((), moved.dtype)), moved)
    return [_graph.make(eqn, [capped])]


def sum_of_shifted(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Says that a sum of exp(x - max x), as a softmax takes, is at least 1."""
    exponential = values[0]
    if not (isinstance(exponential, Node) and exponential.op == "exp"):
        return None
    capped = exponential.inputs[0]
    # As `exp_of_shifted` leaves it; a smaller bound would make the sum smaller too.
    if not (capped.op == "min" and _graph.holds(capped.inputs[1], 0)):
        return None
    top = _maximum_in(capped.inputs[0])
    if top is None or tuple(top.params["axes"]) != tuple(eqn.params["axes"]):
        return None
    total = _graph.make(eqn, values)
    return [new("max", (total, np.ones((), total.dtype)), eqn.outvars[0])]


def _maximum_in(moved: Any) -> Node | None:
    """Returns the maximum of x in x - max x; None for what is no such difference."""
    if not (isinstance(moved, Node) and moved.op == "sub"):
        return None
    (x, top), spreads = moved.inputs, []
    while isinstance(top, Node) and top.op in _SPREADS:
        spreads.insert(0, top)
        (top,) = top.parents
    if not (isinstance(top, Node) and top.op == "reduce_max" and top.inputs[0] is x):
        return None
    return top if _back_in_place(top, spreads, x.shape) else None


def _back_in_place(top: Node, spreads: Sequence[Node], shape: Sequence[int]) -> bool:
    """Whether each maximum is spread over the values that it is the maximum of."""
    places = np.arange(top.size, dtype=np.int32).reshape(top.shape)
    wanted = np.expand_dims(places, tuple(top.params["axes"]))
    with jax.ensure_compile_time_eval():
        for node in spreads:
            places = np.asarray(node.apply(places))
    return np.array_equal(
        np.broadcast_to(places, shape), np.broadcast_to(wanted, shape)
    )


def _text(inner: Any) -> str:
    return str(getattr(inner, "jaxpr", inner))


def _is_own(eqn: Any, function: Callable[..., Any]) -> bool:
    """Whether a call is one of this function of JAX, and no other of its name."""
    found = _graph.inner_jaxpr(eqn)
    if found is None:
        return False
    like = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    own = jax.make_jaxpr(function)(*like).jaxpr
    if len(own.eqns) != 1 or (inner := _graph.inner_jaxpr(own.eqns[0])) is None:
        return False
    return _text(inner.jaxpr) == _text(found.jaxpr)


def _logaddexp(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """Is c + softplus(x - c) for a constant c."""
    x, c = values
    if isinstance(c, Node) or not isinstance(x, Node):
        return None
    if not _is_own(eqn, jnp.logaddexp):
        return None
    if _graph.holds(c, 0):
        return [new("softplus", (x,), eqn.outvars[0])]
    (moved,) = apply(lambda x, c: x - jnp.broadcast_to(c, x.shape), x, c)
    soft = new("softplus", (moved,), eqn.outvars[0])
    return apply(lambda s, c: s + jnp.broadcast_to(c, s.shape), soft, c)


def _elu(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    """An ELU with alpha = 1 is convex; others are what their parts are."""
    if len(values) != 1 or not _is_own(eqn, jax.nn.elu):
        return None
    return [new("elu", values, eqn.outvars[0])]


def _softplus(eqn: Any, values: Sequence[Any]) -> Sequence[Any] | None:
    if len(values) != 1 or not _is_own(eqn, jax.nn.softplus):
        return None
    return [new("softplus", values, eqn.outvars[0])]


CALLS: Mapping[str, Rewrite] = {
    "logaddexp": _logaddexp,
    "elu": _elu,
    "softplus": _softplus,
}
