"""Turns any callable into a pure function plus the arrays that it holds.

A compiled attack must not bake a model's weights in, nor keep them alive, nor miss
that they changed. So a callable is traced once, and every array it captured, also
through an inner `jax.jit`, becomes an argument.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.attacks._jaxprs import inner_jaxprs

_CALLS = ("jit", "pjit", "closed_call", "core_call")


class Captured(NamedTuple):
    """`fn(arrays, *inputs)` computes what the callable did."""

    fn: Callable[..., Any]
    arrays: list[Any]
    out: Any  # shape and dtype of the result; None where nothing was traced
    # What is compiled may be kept: no more arrays sit inside control flow, where they
    # stay constants.
    keep: bool


def capture(function: Callable[..., Any], *inputs: jax.ShapeDtypeStruct) -> Captured:
    """Traces `function(*inputs)`, which returns one array, exactly once."""
    call, leaves = unbound(function)
    # A new function each time: JAX keeps traces by equality, and equal `Unbound`s may
    # be of different models, in another thread, say.
    fresh = lambda *args: call(*args)  # noqa: E731
    closed, out = jax.make_jaxpr(fresh, return_shape=True)(leaves, *inputs)
    held: dict[int, Any] = {}
    _collect(closed.jaxpr, closed.consts, held)
    order = {name: len(leaves) + i for i, name in enumerate(held)}

    def replay(arrays: Sequence[Any], *args: Any) -> Any:
        given = {name: arrays[place] for name, place in order.items()}
        flat = jax.tree.leaves((list(arrays[: len(leaves)]), args))
        return _evaluate(closed.jaxpr, closed.consts, flat, given)[0]

    arrays = [*leaves, *held.values()]
    return Captured(replay, arrays, out, keep=not _embeds(closed.jaxpr))


@dataclasses.dataclass(frozen=True)
class Unbound:
    """A callable without the arrays of its Partial; `key` tells it from all others.

    Python numbers stay: a model may branch on them.
    """

    key: Hashable
    function: Callable[..., Any] = dataclasses.field(compare=False)
    tree: Any
    scalars: tuple[Any, ...]  # None where an array goes, else (type, value)

    def __call__(self, arrays: Sequence[Any], *inputs: Any) -> Any:
        """Computes what the callable does, with these arrays."""
        rest = iter(arrays)
        leaves = [next(rest) if s is None else s[1] for s in self.scalars]
        args, keywords = jax.tree.unflatten(self.tree, leaves)
        return self.function(*args, *inputs, **keywords)


def unbound(
    function: Callable[..., Any], key: Hashable = None
) -> tuple[Unbound, list[Any]]:
    """Takes the arrays out of a Partial; any other callable has none."""
    bound: Any = ((), {})
    if isinstance(function, jax.tree_util.Partial):
        function, bound = function.func, (function.args, function.keywords)
    leaves, tree = jax.tree.flatten(bound)
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    scalars = tuple(None if _is_array(v) else (type(v), v) for v in leaves)
    return Unbound(key, function, tree, scalars), arrays


def like(array: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and dtype."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _is_array(leaf: object) -> bool:
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


def _embeds(jaxpr: Any, *, inside: bool = False) -> bool:
    """Whether constants remain where `_evaluate` does not reach: in control flow."""
    for eqn in jaxpr.eqns:
        deep = inside or _callee(eqn) is None
        for body, consts in inner_jaxprs(eqn.params):
            held = deep and any(np.size(const) > 1 for const in consts)
            if held or _embeds(body, inside=deep):
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
