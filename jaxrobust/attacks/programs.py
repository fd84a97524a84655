"""Callables as static arguments of a jitted attack: hashable, and without their arrays.

A `Partial` of a network of ours names its computation for ever, so only its arrays are
taken out. Any other callable, a module of anyone's too, may read a global that changes:
it is traced once per call, and `Traced` ones are equal where the programs of function
and gradient are.

Other packages take `capture` and `inner_jaxprs` from here too.
"""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxrobust.attacks import _jaxprs
from jaxrobust.attacks._capture import Captured, Unbound, like, unbound
from jaxrobust.attacks._capture import capture as capture
from jaxrobust.attacks._jaxprs import inner_jaxprs as inner_jaxprs

_SCALAR = (bool, int, float, str, type(None), np.dtype)
_UNCHANGING = ("jaxrobust", "jax", "flax", "numpy", "ml_dtypes", "builtins")


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


def jitted(bound: Captured) -> Callable[..., Any]:
    """Returns `fn` compiled; that of an equal one if it is still known."""
    return _jitted(bound.fn) if bound.keep else jax.jit(bound.fn)


@functools.lru_cache(maxsize=64)
def _jitted(program: Unbound | Traced) -> Callable[..., Any]:
    return jax.jit(program)


def _name(held: Captured, inputs: Sequence[Any]) -> str | None:
    """Names a program by its text and its gradient's; None where they do not say all.

    A straight-through estimator looks like its forward pass, hence the gradient. Calls
    to the host look all the same.
    """

    def both(arrays: Any, weights: Any, x: Any, *rest: Any) -> Any:
        out, pull = jax.vjp(lambda z: held.fn(arrays, z, *rest), x)
        return out, pull(weights)

    weights = jax.tree.map(like, held.out)
    try:
        traced = jax.jit(both, keep_unused=True).trace(held.arrays, weights, *inputs)
    except Exception:  # whatever the model's own rules raise: it has no gradient
        traced = jax.jit(held.fn, keep_unused=True).trace(held.arrays, *inputs)
    if _jaxprs.host_calls(traced.jaxpr.jaxpr, harmless=True):
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

    Networks of ours are frozen, and equal ones compute equal things, if all that they
    are made of is ours too. A function, a class or a module of anyone's may read a
    global that changes.
    """
    if isinstance(part, _SCALAR):
        return True
    if isinstance(part, tuple | list):
        return all(map(_stays, part))
    if isinstance(part, Mapping):
        return all(map(_stays, part.values()))
    if isinstance(owner := getattr(part, "__self__", None), nn.Module):
        own = getattr(type(owner), part.__name__, None) is part.__func__
        return own and _stays(owner)
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
    if isinstance(part, nn.Module):
        known = part.parent is None and part.scope is None
    else:
        frozen: Any = part
        known = frozen.__dataclass_params__.frozen
    values = (getattr(part, f.name) for f in dataclasses.fields(part))
    return known and all(map(_stays, values))


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
