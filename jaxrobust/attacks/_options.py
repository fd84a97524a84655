"""Options that attacks share: their types, words and defaults, said once.

An attack takes them as `**options: Unpack[BallOptions]`, which type checkers read;
`shares` writes them into its signature and docstring, for `help` and editors.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

from jaxrobust import threat
from jaxrobust.array_types import Bounds, Key, Norm
from jaxrobust.attacks._objective import Loss, Problem

Function = TypeVar("Function", bound=Callable[..., Any])


class ModelOptions(TypedDict, total=False):
    """What every attack asks about the model.

    Args:
      bounds: lowest and highest value of an image, finite.
      stochastic: the model is called `logits_fn(x, keys)` and draws its randomness from
        the keys `[B]`.
      eot_samples: draws of a stochastic model that each call averages over.
    """

    bounds: Bounds
    stochastic: bool
    eot_samples: int


class BallOptions(ModelOptions, total=False):
    """What attacks of the gradient family share.

    Args:
      key: one key (row i uses fold_in(key, i)) or one per example; needed with a random
        start or a stochastic model.
      norm: 'linf', 'l2' or 'l1'.
      loss: 'ce', 'margin', 'dlr', a function (logits, y) -> `[B]`, or
        `attacks.on_input(fn)` with fn(x, y) -> `[B]`; ascended.
      targeted: descend the loss towards `y`, the target classes, instead.
      quantize: keep every iterate on the 8-bit levels of `bounds`.
    """

    key: Key | None
    norm: Norm
    loss: Loss
    targeted: bool
    quantize: bool


def shares(options: type) -> Callable[[Function], Function]:
    """Shows the options of a TypedDict where a function says `**options`."""
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(Problem, name, None),  # a dataclass keeps them so
            annotation=kind,
        )
        for name, kind in typing.get_type_hints(options).items()
    ]

    def write(function: Function) -> Function:
        own = inspect.signature(function)
        parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        signature = own.replace(parameters=[*parameters, *shared])

        @functools.wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            for name in given:
                if name not in signature.parameters:
                    near = threat.nearest_match(name, signature.parameters)
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument "
                        f"{name!r}. {near}"
                    )
            return function(*args, **given)

        shown: Any = checked
        shown.__signature__ = signature
        shown.__doc__ = _told(inspect.cleandoc(function.__doc__ or ""), options)
        return shown

    return write


def _told(text: str, options: Any) -> str:
    """Puts the words about the options where a docstring says `**options`."""
    lines = []
    for line in text.splitlines():
        lines += _words(options) if line.strip().startswith("**options:") else [line]
    return "\n".join(lines)


def _words(options: Any) -> list[str]:
    inherited = [] if options is ModelOptions else _words(ModelOptions)
    _, _, own = inspect.cleandoc(options.__doc__ or "").partition("Args:\n")
    return own.splitlines() + inherited
