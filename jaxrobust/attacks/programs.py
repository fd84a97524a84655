"""Any callable as a pure function and the arrays that it holds.

A compiled attack must not bake a model's weights in, nor keep them alive, nor miss
that they changed. A `Partial` of a Linen module names its computation for ever, so only
its arrays are taken out. Any other callable may read a global that changes: it is
traced once per call, and every array it captured, also through an inner `jax.jit`,
becomes an argument; `Traced` ones are equal where the programs of function and gradient
are.
"""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.core import Tracer
from jax.extend import source_info_util
from jax.extend.core import jaxpr_as_fun

from jaxrobust._shards import varied_alike, varied_over
from jaxrobust.attacks import _jaxprs
from jaxrobust.attacks._jaxprs import inner_jaxprs as inner_jaxprs
from jaxrobust.attacks._jaxprs import scan_sizes as scan_sizes
from jaxrobust.attacks._jit import place

_OF_NUMPY = (
    "The function that is attacked must be one of JAX, and this makes NumPy arrays of "
    "its input. Write it with jax.numpy; one that cannot be is a black box: see "
    "jax.pure_callback, or `jaxrobust attack --black_box`."
)
_CALLS = ("jit", "pjit", "closed_call", "core_call")
_SCALAR = (bool, int, float, str, type(None), np.dtype)
_UNCHANGING = ("jaxrobust", "jax", "flax", "numpy", "ml_dtypes", "builtins")


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
    try:
        closed, out = jax.make_jaxpr(fresh, return_shape=True)(leaves, *inputs)
    except jax.errors.TracerArrayConversionError as error:
        error.add_note(_OF_NUMPY)
        raise
    if not jax.tree.leaves(out):
        name = getattr(function, "__name__", type(function).__name__)
        raise ValueError(f"{name} must return an array, got {out}.")
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


def abstract(array: Any) -> Any:
    """An array's shape and dtype. One that is traced stays: it has a type already.

    That of `jax.shard_map` says over which devices it varies.
    """
    if isinstance(array, Tracer):
        return array
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


@dataclasses.dataclass(frozen=True)
class Traced:
    """A program of arrays. `name` tells it and its gradient from all others."""

    name: Hashable
    jaxpr: Any = dataclasses.field(compare=False)

    def __call__(self, arrays: Sequence[Any], *inputs: Any) -> Any:
        """Computes what the callable did, with these arrays in place of its own."""
        flat = jax.tree.leaves((list(arrays), inputs))
        return jaxpr_as_fun(self.jaxpr)(*flat)[0]


def bind(function: Callable[..., Any], *inputs: jax.ShapeDtypeStruct) -> Captured:
    """Captures a callable, which returns one array, in a `fn` that can be hashed."""
    if (fixed := _fixed(function)) is not None:
        return fixed
    held = capture(function, *inputs)
    name = _name(held, inputs) if held.keep else None
    jaxpr = jax.make_jaxpr(held.fn)(held.arrays, *inputs)
    return held._replace(fn=Traced(name or object(), jaxpr), keep=name is not None)


def jitted(bound: Captured) -> Any:
    """Returns `jax.jit(fn)`; that of an equal one if it is still known."""
    found = place(bound.fn) if bound.keep else []
    if not found:
        found.append(jax.jit(bound.fn))
    return found[0]


def _name(held: Captured, inputs: Sequence[Any]) -> str | None:
    """Names a program by its text and its gradient's; None where they do not say all.

    A straight-through estimator looks like its forward pass, hence the gradient. Calls
    to the host look all the same.
    """

    def both(arrays: Any, weights: Any, x: Any, *rest: Any) -> Any:
        out, pull = jax.vjp(lambda z: held.fn(arrays, z, *rest), x)
        return out, pull(weights)

    weights = jax.tree.map(abstract, held.out)
    try:
        traced = jax.jit(both, keep_unused=True).trace(held.arrays, weights, *inputs)
    except Exception:  # whatever the model's own rules raise: it has no gradient
        traced = jax.jit(held.fn, keep_unused=True).trace(held.arrays, *inputs)
    if _jaxprs.outside_calls(traced.jaxpr.jaxpr, harmless=True):
        return None
    lowered = traced.lower()
    kind = f"{lowered.in_tree}\n{lowered.in_avals}\n{lowered.out_tree}"
    text = f"{jax.default_backend()}\n{kind}\n{lowered.as_text()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _fixed(function: Any) -> Captured | None:
    """Takes the arrays out of a Partial, where its function stays what it is."""
    if not isinstance(function, jax.tree_util.Partial):
        return None
    base: Any = function.func
    base = getattr(base, "fun", base)  # jax wraps a nested partial
    if not _stays(base):
        return None
    fixed, arrays = unbound(function, _key(base))
    try:
        hash(fixed)
    except TypeError:  # a field of a module, say
        return None
    return Captured(fixed, arrays, None, keep=True)


def _stays(part: Any) -> bool:
    """Whether a part of a callable computes the same for ever.

    Modules of Linen are frozen, and equal ones compute equal things: Flax and a static
    argument of `jax.jit` rest on the same. So do objects of ours, if all that they are
    made of is ours too. A function or class of anyone's may read a global that changes.
    """
    if isinstance(part, (nn.Module, *_SCALAR)):
        return True
    if isinstance(part, tuple | list):
        return all(map(_stays, part))
    if isinstance(part, Mapping):
        return all(map(_stays, part.values()))
    if isinstance(owner := getattr(part, "__self__", None), nn.Module):
        return getattr(type(owner), part.__name__, None) is part.__func__
    if isinstance(part, functools.partial):
        return all(map(_stays, (part.func, *part.args, *part.keywords.values())))
    if isinstance(part, type):
        return _is_of(part, *_UNCHANGING)
    if isinstance(part, types.FunctionType):
        cells = part.__closure__ or ()
        return _is_of(part, *_UNCHANGING) and all(
            _stays(c.cell_contents) for c in cells
        )
    if not (_is_of(type(part), "jaxrobust") and dataclasses.is_dataclass(part)):
        return False
    known: Any = part
    values = (getattr(part, f.name) for f in dataclasses.fields(part))
    return known.__dataclass_params__.frozen and all(map(_stays, values))


def _is_of(part: Any, *packages: str) -> bool:
    """Whether a class or a function was written in one of these packages."""
    return (part.__module__ or "").partition(".")[0] in packages


def _key(part: Any) -> Hashable:
    """What tells a part: methods and partials are equal to themselves alone."""
    if isinstance(owner := getattr(part, "__self__", None), nn.Module):
        return owner, part.__name__
    if isinstance(part, functools.partial):
        keywords = tuple((k, _key(v)) for k, v in part.keywords.items())
        return _key(part.func), tuple(map(_key, part.args)), keywords
    return part


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


def _line(eqn: Any, called_at: Any) -> Any:
    """Returns where an equation was written; where it was called if JAX did."""
    own = eqn.source_info.traceback
    if called_at is None or own is None:
        return own or called_at
    ours = any("/jax/" not in frame.file_name for frame in own.frames)
    return own if ours else called_at


def _bind(eqn: Any, values: Sequence[Any]) -> Any:
    """Computes an equation at values that may vary over devices where its did not."""
    params = eqn.primitive.get_bind_params(eqn.params)
    if eqn.primitive.name == "pvary":
        return varied_over(values[0], params["axes"])
    if not any(inner_jaxprs(eqn.params)):
        values = varied_alike(tuple(values))
    return eqn.primitive.bind(*values, **params)


def _evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any],
    given: dict[int, Any],
    called_at: Any = None,
) -> list[Any]:
    """Evaluates a jaxpr with calls inlined and constants replaced by `given`.

    Equations keep the line of their function, for errors; those inside of a function of
    JAX that of the call.
    """
    env: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else env[atom]

    env.update(zip(jaxpr.constvars, (given[id(c)] for c in consts), strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        if (closed := _callee(eqn)) is not None:
            line = _line(eqn, called_at)
            out = _evaluate(closed.jaxpr, closed.consts, values, given, line)
        else:
            line = source_info_util.user_context(_line(eqn, called_at))
            with line, eqn.ctx.manager:
                out = _bind(eqn, values)
            out = out if eqn.primitive.multiple_results else [out]
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
