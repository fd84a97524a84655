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
from jaxrobust.attacks import _checks
from jaxrobust.attacks._objective import Loss, Problem

Function = TypeVar("Function", bound=Callable[..., Any])


class ModelOptions(TypedDict, total=False):
    """What all attacks share.

    Args:
      key: one key (row i uses fold_in(key, i)) or one per example; needed where the
        attack or the model draws at random.
      bounds: lowest and highest value of an image, finite.
      stochastic: the model is called `logits_fn(x, keys)` and draws its randomness from
        the keys `[B]`.
      eot_samples: draws of a stochastic model that each call averages over.
      unroll: how the loop over steps is written out; None chooses.
    """

    key: Key | None
    bounds: Bounds
    stochastic: bool
    eot_samples: int
    unroll: int | bool | None


class LossOptions(ModelOptions, total=False):
    """What attacks share that look for the highest loss in a ball.

    Args:
      norm: 'linf', 'l2' or 'l1'.
      loss: 'ce', 'margin', 'dlr', a function (logits, y) -> `[B]`, or
        `attacks.on_input(fn)` with fn(x, y) -> `[B]`; ascended.
      targeted: descend the loss towards `y`, the target classes, instead.
    """

    norm: Norm
    loss: Loss
    targeted: bool


class BallOptions(LossOptions, total=False):
    """What attacks of the gradient family share.

    Args:
      quantize: keep every iterate on the 8-bit levels of `bounds`.
    """

    quantize: bool


_SHARED = (LossOptions, BallOptions, ModelOptions)


def shares(options: type, **defaults: Any) -> Callable[[Function], Function]:
    """Shows the options of a TypedDict where a function says `**options`.

    Args:
      options: the TypedDict.
      **defaults: of options, where they are not those of a `Problem`.
    """
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            # A dataclass keeps its defaults as attributes of the class.
            default=defaults.get(name, getattr(Problem, name, None)),
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
            _checks.check_options(given, signature.parameters)
            return function(*args, **(defaults | given))

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
    lines = []
    for part in _SHARED:
        if part.__annotations__.keys() <= options.__annotations__.keys():
            _, _, words = inspect.cleandoc(part.__doc__ or "").partition("Args:\n")
            lines += words.splitlines()
    return lines
