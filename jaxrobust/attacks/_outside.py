"""Attacks from outside: functions of users' own, `package.module:function`."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxrobust import named_code
from jaxrobust.array_types import Images, Key, Labels, LogitsFn

Function = Callable[..., Images]
_PLAIN = (bool, int, float, str)


def load(name: str) -> Function:
    """Imports an attack; TypeError for a class, ValueError for what is not there."""
    found = named_code.load("attack", name)
    if inspect.isclass(found):
        raise TypeError(
            f"attack {name} is a class: name a function, or an object of it."
        )
    return found


def signature(function: Function) -> inspect.Signature:
    """Returns the arguments of an attack.

    Annotations may be texts (`from __future__ import annotations`), or missing: the
    kind of the default counts then.
    """
    try:
        found = inspect.signature(function, eval_str=True)
    except Exception:  # names that are there for a type checker alone
        found = inspect.signature(function)
    parameters = []
    for one in found.parameters.values():
        inner = typing.get_args(one.annotation)
        if one.kind is one.VAR_KEYWORD and inner and typing.is_typeddict(inner[0]):
            hints = typing.get_type_hints(inner[0], include_extras=True)
            parameters += [
                inspect.Parameter(k, one.KEYWORD_ONLY, default=None, annotation=hint)
                for k, hint in hints.items()
            ]
        elif one.annotation is one.empty and type(one.default) in _PLAIN:
            parameters.append(one.replace(annotation=type(one.default)))
        else:
            parameters.append(one)
    return found.replace(parameters=parameters)


def takes_any(function: Function) -> bool:
    """Whether an attack takes options by any name (`**options`)."""
    parameters = signature(function).parameters.values()
    return any(one.kind is one.VAR_KEYWORD for one in parameters)


def hint(option: str) -> str:
    """Says what to do about an option that the program gives each attack."""
    if option != "eps":
        return ""
    return (
        "The program gives each attack the radius: let it take `eps`, or say by an "
        "attribute `threat` that it has none."
    )


def checked(
    name: str, function: Function, options: Mapping[str, Any]
) -> Callable[..., Images]:
    """Returns an attack with its options; TypeError if it cannot be called as ours."""
    try:
        signature(function).bind(None, None, None, key=None, **options)
    except TypeError as error:
        raise TypeError(
            f"attack {name} must take (logits_fn, x, y, key=None) and its options: "
            f"{error}."
        ) from None
    return functools.partial(_call, name, function, options)


def _call(
    name: str,
    function: Function,
    options: Mapping[str, Any],
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    key: Key | None = None,
) -> Images:
    """Calls an attack from outside; ValueError unless it returns images like x."""
    out = function(logits_fn, x, y, key=key, **options)
    array: Any = out if hasattr(out, "dtype") else None
    if (
        array is None
        or array.shape != x.shape
        or not jnp.issubdtype(array.dtype, jnp.floating)
    ):
        got = type(out).__name__
        if array is not None:
            got = f"{array.dtype} {list(array.shape)}"
        raise ValueError(
            f"attack {name} must return images like `x`, {x.dtype} {list(x.shape)}, "
            f"got {got}."
        )
    return out
