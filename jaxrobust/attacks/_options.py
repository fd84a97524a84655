"""Options that attacks share: their types, words and defaults, said once.

An attack takes them as `**options: Unpack[BallOptions]`, which type checkers read;
`shares` writes them into its signature, and into its docstring what is said here about
any argument (or result) that the attack itself says nothing of.
"""

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypedDict, TypeVar

from jaxrobust._checks import Range, nearest_match
from jaxrobust.array_types import Bounds, Images, Key, Norm
from jaxrobust.attacks import _checks
from jaxrobust.attacks._objective import Loss, Problem

Function = TypeVar("Function", bound=Callable[..., Any])

# Of how many there must be one; a plain int may be 0.
PositiveInt = Annotated[int, Range(1)]

# One argument in a docstring.
_ENTRY = re.compile(r"^  (\w+): .*(?:\n    .*)*", re.MULTILINE)


class CallOptions(TypedDict, total=False):
    """What all attacks share.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
        Attacks from scores or decisions only call it.
      x: images `[B, H, W, C]`, floating, inside `bounds`. Of half precision the attack
        computes in float32, and rounds towards `x` what it asks the model and returns.
      steps: number of steps, at least 0; static.
      key: one key (row i uses fold_in(key, i)) or one per example; needed where the
        attack or the model draws at random.
      bounds: lowest and highest value of an image, finite.
      stochastic: the model is called `logits_fn(x, keys)` and draws its randomness from
        the keys `[B]`.
      eot_samples: draws of a stochastic model that each call averages over.
      unroll: how the loop over steps is written out; None chooses.

    Returns:
      Shape and dtype of `x`, in `bounds`. No gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.
    """

    key: Key | None
    bounds: Bounds
    stochastic: bool
    eot_samples: PositiveInt
    unroll: int | bool | None


class ChangeOptions(CallOptions, total=False):
    """What attacks share whose threat is no ball.

    Args:
      y: labels `[B]`; the target classes where `targeted`.
      loss: 'ce', 'margin', 'dlr', a function (logits, y) -> `[B]`, or
        `attacks.on_input(fn)` with fn(x, y) -> `[B]`; ascended.
      targeted: descend the loss towards `y`, the target classes, instead.
      restarts: number of random starts; the first one that fools the model counts.

    Returns:
      Shape and dtype of `x`, in `bounds`: a misclassified image where one was found. No
      gradient flows.
    """

    loss: Loss
    targeted: bool


class ModelOptions(CallOptions, total=False):
    """What all attacks share whose threat is a ball.

    Args:
      y: labels `[B]`. An image that is misclassified already is returned as it is.
      eps: radius up to which a perturbation counts; None: any. May be traced.
      norm: 'linf', 'l2' or 'l1': the length that is made small.

    Returns:
      Shape and dtype of `x`, in the box: the nearest misclassified point found where it
      is within `eps`, else the image. No gradient flows.
    """

    norm: Norm


class TargetOptions(ModelOptions, total=False):
    """What attacks share that may have a target.

    Args:
      y: labels `[B]`; the target classes where `targeted`. An image that is what the
        attack looks for already is returned as it is.
      targeted: make the model predict `y` instead.
    """

    targeted: bool


class LossOptions(TargetOptions, total=False):
    """What attacks share that look for the highest loss in a ball.

    Args:
      y: labels `[B]`; the target classes where `targeted`.
      eps: radius of the ball in units of the images: a number, one per example `[B]`,
        or in Linf one per channel `[1, 1, 1, C]` or value `[B, H, W, C]` (a mask, eps /
        std), whatever broadcasts so. One that is larger than the box is the box. May
        be traced.
      restarts: keeps, per example, a misclassified point over one that is not, then
        the higher loss; restart r > 0 uses fold_in(key, r).
      norm: 'linf', 'l2' or 'l1'.
      loss: 'ce', 'margin', 'dlr', a function (logits, y) -> `[B]`, or
        `attacks.on_input(fn)` with fn(x, y) -> `[B]`; ascended.
      targeted: descend the loss towards `y`, the target classes, instead.

    Returns:
      Shape and dtype of `x`, in ball and box: a misclassified point where one was
      found, else the point of the highest loss. No gradient flows.
    """

    loss: Loss


class BallOptions(LossOptions, total=False):
    """What attacks of the gradient family share.

    Args:
      step_size: length of a step in the norm, finite, of the same shapes as `eps`; may
        be traced.
      random_start: start from `threat.sample` instead of `x`.
      quantize: keep every iterate on the 8-bit levels of `bounds`.

    Returns:
      Attacked images, shape and dtype of `x`, in ball and box; no gradient flows.
    """

    quantize: bool


class TransferOptions(BallOptions, total=False):
    """What attacks share whose images are to fool other models too.

    Each of them sets some by default; any of them may be combined.

    Args:
      norm: 'linf' or 'l2'.
      decay: weight of the momentum of the step before, at least 0.
      random_start: start from `threat.sample` instead of `x`.
      nesterov: take gradients `decay * step_size * momentum` ahead, not at the point.
      neighbours: draws around the point whose mean gradient, less that of the point,
        is added in the next step; 0: none.
      reach: how far they lie, in radii.
      scales: copies of the image over 1, 2, 4 ... (from the lower bound up), whose
        gradients are averaged.
      mixed: copies with another image added, whose gradients are averaged; 0: none.
      weight: of the image that is added.
      others: images `[P, H, W, C]` that are mixed in, each drawn at random; None: the
        image itself, mirrored and rolled.
      resize: least share of its size that the image shrinks to; 1: never.
      share: of the steps (and copies) in which it shrinks, at a random place.
      kernel: that smooths the gradient over pixels: 'gaussian' (of 3 standard
        deviations to each side), 'uniform' or 'linear'; 'none': no smoothing.
      length: of the kernel in pixels, odd.
    """

    decay: Annotated[float, Range(0, 10)]
    random_start: bool
    restarts: PositiveInt
    nesterov: bool
    neighbours: int
    reach: Annotated[float, Range(0, 100)]
    scales: PositiveInt
    mixed: int
    weight: Annotated[float, Range(0, 10)]
    others: Images | None
    resize: Annotated[float, Range(0, 1, above=True)]
    share: Annotated[float, Range(0, 1)]
    kernel: Literal["none", "gaussian", "uniform", "linear"]
    length: PositiveInt


_SHARED = (CallOptions, ChangeOptions, ModelOptions, TargetOptions)
_SHARED += (LossOptions, BallOptions, TransferOptions)


def shares(options: type, **defaults: Any) -> Callable[[Function], Function]:
    """Shows the options of a TypedDict where a function says `**options`.

    `defaults` are those of options that are not those of a `Problem`.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    shared = {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            # A dataclass keeps its defaults as attributes of the class.
            default=defaults.get(name, getattr(Problem, name, None)),
            annotation=hints[name],
        )
        for name in sorted(hints, key=lambda name: name != "norm")  # what it is of
    }

    def write(function: Function) -> Function:
        own = inspect.signature(function)
        named = {n: p for n, p in own.parameters.items() if p.kind is not p.VAR_KEYWORD}
        signature = own.replace(parameters=[*(named | (shared | named)).values()])

        @functools.wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            for name in given:
                if name not in signature.parameters:
                    near = nearest_match(name, signature.parameters)
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument "
                        f"{name!r}. {near}"
                    )
            _checks.check_options(given, signature.parameters)
            return function(*args, **(defaults | given))

        shown: Any = checked
        shown.__signature__ = signature
        shown.__doc__ = _told(function.__doc__, options, signature.parameters)
        return shown

    return write


def _told(text: str | None, options: Any, names: Iterable[str]) -> str:
    """A docstring with the words about what is shared, in the order of `names`."""
    keys, own = options.__annotations__.keys(), _sections(text)
    parts = [_sections(p.__doc__) for p in _SHARED if p.__annotations__.keys() <= keys]
    sections: dict[str, str] = {}
    words: dict[str, str] = {}
    for part in (*parts, own):  # what is said last counts
        sections |= part
        words |= {found[1]: found[0] for found in _ENTRY.finditer(part.get("Args", ""))}
    sections["Args"] = "\n".join(words[name] for name in names if name in words)
    first = sections.pop("").rstrip()
    rest = (f"{name}:\n{body.rstrip()}" for name, body in sections.items())
    return "\n\n".join((first, *rest))


def _sections(text: str | None) -> dict[str, str]:
    """A docstring by headings, such as 'Args'; '' for what comes before them."""
    text = inspect.cleandoc(text or "")
    first, *rest = re.split(r"^(\w+):\n", text, flags=re.MULTILINE)
    return {"": first} | dict(zip(rest[::2], rest[1::2], strict=True))
