"""Compiling for eager calls: once per program, holding no model.

Executables are found by the text of their program, so a callable that was traced
anew still finds the executable of an equal one. They hold no arrays.
"""

import collections
import dataclasses
import functools
import hashlib
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxrobust.attacks import _host

_EXECUTABLES = 64


class Executables:
    """The last used executables, by digest of program, shardings and devices."""

    def __init__(self, size: int):
        self._size = size
        self._entries: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self.compiled = 0

    def __len__(self) -> int:
        """Number of executables that are kept."""
        return len(self._entries)

    def get(
        self,
        lowered: Any,
        placement: Hashable,
        *,
        keep: bool,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns the executable of a lowered program, compiling it when new."""
        text = lowered.as_text()
        kind = f"{lowered.in_tree}\n{lowered.in_avals}\n{lowered.out_tree}"
        name = f"{placement}\n{options}\n{kind}\n{text}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        found = self._entries.get(digest)
        if found is None:
            given = {"compiler_options": options} if options else {}
            found = lowered.compile(**given)
            self.compiled += 1
            if not keep:
                return found
            self._entries[digest] = found
        self._entries.move_to_end(digest)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return found


executables = Executables(_EXECUTABLES)

# Per model: what an eager call with the same static arguments and shapes needs.
# Values must not refer to the key, or it would live for ever.
plans: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()


def placement(arrays: Sequence[Any]) -> Hashable:
    """Where arrays lie: sharding and devices of each, as text."""

    def describe(array: Any) -> str:
        sharding = getattr(array, "sharding", None)
        if sharding is None:
            return ""
        devices = getattr(sharding, "_device_assignment", None)
        return f"{sharding}{devices or sorted(d.id for d in sharding.device_set)}"

    return tuple(describe(array) for array in arrays)


def signature(arrays: Sequence[Any]) -> Hashable:
    """Shapes, dtypes and placement of arrays, and what of jax's config matters."""
    config: Any = jax.config
    return (
        tuple((np.shape(a), str(a.dtype)) for a in arrays),
        placement(arrays),
        config.jax_enable_x64,
        config.jax_default_matmul_precision,
        str(config.jax_default_device),
        config.jax_threefry_partitionable,
        config.jax_debug_nans,
        str(jax.sharding.get_abstract_mesh()),
    )


def owner(function: object) -> tuple[nn.Module, Hashable] | None:
    """Splits a Partial's function into the Linen module it holds and the rest.

    Linen modules are frozen, and equal modules compute equal things: a module and
    the rest therefore name the computation for as long as the module lives. Anything
    that could change its mind (a closure, an object with state) gives None.
    """
    function = getattr(function, "fun", function)  # jax wraps a nested partial
    held: Any = function
    if isinstance(bound := getattr(function, "__self__", None), nn.Module):
        method = getattr(type(bound), held.__name__, None)
        parts, rest = [bound], (held.__name__,)
        if method is not held.__func__:
            return None
    elif isinstance(function, functools.partial):
        parts = [*function.args, *function.keywords.values()]
        rest = (function.func, len(function.args), tuple(function.keywords))
    elif dataclasses.is_dataclass(function):
        parts = [getattr(held, field.name) for field in dataclasses.fields(function)]
        rest = (type(function),)
    else:
        return None
    modules = [part for part in parts if isinstance(part, nn.Module)]
    if len(modules) != 1 or not all(_is_fixed(part) for part in rest):
        return None
    others = tuple(None if p is modules[0] else p for p in parts)
    if not all(p is None or isinstance(p, bool | int | float | str) for p in others):
        return None
    return modules[0], (rest, others)


def _is_fixed(part: Any) -> bool:
    """Whether a function can be told by its identity: it closes over nothing."""
    if isinstance(part, int | str | tuple | type):
        return True
    return callable(part) and getattr(part, "__closure__", ()) is None


def trace(function: Callable[..., Any], *args: Any) -> Any:
    """Traces a function of arrays; arguments it does not use stay arguments."""
    return jax.jit(function, keep_unused=True).trace(*args)


def build(traced: Any, *args: Any, keep: bool) -> Any:
    """Compiles a traced function, or finds the executable of an equal program."""
    where = placement(jax.tree.leaves(args))
    keep = keep and not _host.calls(traced.jaxpr.jaxpr, harmless=True)
    return executables.get(traced.lower(), where, keep=keep)
