"""Turns any callable into a pure function plus the arrays that it holds.

A compiled attack must not bake a model's weights in, nor keep them alive, nor miss
that they changed. So a callable is traced once, and every array it captured, also
through an inner `jax.jit`, becomes an argument.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.attacks._jaxprs import inner_jaxprs

_CALLS = ("jit", "pjit", "closed_call", "core_call")


class Captured(NamedTuple):
    """`fn(arrays, *inputs)` computes what the callable did.

    `embedded`: more arrays sit inside control flow, where they stay constants.
    """

    fn: Callable[..., Any]
    arrays: list[Any]
    out: Any
    embedded: bool


def capture(function: Callable[..., Any], *inputs: jax.ShapeDtypeStruct) -> Captured:
    """Traces `function(*inputs)`, which returns one array, exactly once."""
    call, leaves = split(function)
    closed, out = jax.make_jaxpr(call, return_shape=True)(leaves, *inputs)
    held: dict[int, Any] = {}
    _collect(closed.jaxpr, closed.consts, held)
    order = {name: len(leaves) + i for i, name in enumerate(held)}

    def replay(arrays: Sequence[Any], *args: Any) -> Any:
        given = {name: arrays[place] for name, place in order.items()}
        flat = jax.tree.leaves((list(arrays[: len(leaves)]), args))
        return _evaluate(closed.jaxpr, closed.consts, flat, given)[0]

    arrays = [*leaves, *held.values()]
    return Captured(replay, arrays, out, _embeds(closed.jaxpr))


def split(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[Any]]:
    """Returns `call(arrays, *inputs)` and the arrays bound in a Partial."""
    if not isinstance(function, jax.tree_util.Partial):
        return (lambda _, *inputs: function(*inputs)), []
    leaves, tree = jax.tree.flatten((function.args, function.keywords))
    base = function.func
    # Python numbers stay as they are: a model may branch on them.
    places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
    rest = [None if i in places else leaf for i, leaf in enumerate(leaves)]

    def call(arrays: Sequence[Any], *inputs: Any) -> Any:
        full = list(rest)
        for place, array in zip(places, arrays, strict=True):
            full[place] = array
        args, keywords = jax.tree.unflatten(tree, full)
        return base(*args, *inputs, **keywords)

    return call, [leaves[i] for i in places]


def is_array(leaf: object) -> bool:
    """Whether a leaf is an array (or a tracer, or keys), not a Python number."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _callee(eqn: Any) -> Any:
    if eqn.primitive.name not in _CALLS:
        return None
    closed = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return closed if hasattr(closed, "consts") else None


def _collect(jaxpr: Any, consts: Sequence[Any], held: dict[int, Any]) -> None:
    held.update({id(const): const for const in consts})
    for eqn in jaxpr.eqns:
        if (closed := _callee(eqn)) is not None:
            _collect(closed.jaxpr, closed.consts, held)


def _embeds(jaxpr: Any) -> bool:
    """Whether constants remain where `_evaluate` does not reach: in control flow."""

    def any_const(inner: Any) -> bool:
        return any(
            any(np.size(c) > 1 for c in consts) or any_const(body)
            for eqn in inner.eqns
            for body, consts in inner_jaxprs(eqn.params)
        )

    for eqn in jaxpr.eqns:
        if (closed := _callee(eqn)) is not None:
            if _embeds(closed.jaxpr):
                return True
        elif any_const(jaxpr.replace(eqns=[eqn])):
            return True
    return False


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], given: dict[int, Any]
) -> list[Any]:
    """Evaluates a jaxpr with calls inlined and constants replaced by `given`."""
    env: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else env[atom]

    env.update(zip(jaxpr.constvars, (given[id(c)] for c in consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        if (closed := _callee(eqn)) is not None:
            out = _evaluate(closed.jaxpr, closed.consts, values, given)
        else:
            params = eqn.primitive.get_bind_params(eqn.params)
            with eqn.ctx.manager:
                out = eqn.primitive.bind(*values, **params)
            out = out if eqn.primitive.multiple_results else [out]
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
