"""What an attack checks before it computes, and what it warns about after."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from jaxrobust import _checks as checks
from jaxrobust._checks import Range
from jaxrobust.attacks._method import Health, Method
from jaxrobust.attacks._objective import Problem, RobustnessWarning, check_loss

_ANY = Range(-float(np.finfo(float).max), float(np.finfo(float).max), rule="finite")
_SHARED: Mapping[str, Callable[[Any], None]] = {
    "norm": checks.check_norm,
    "bounds": checks.check_bounds,
    "loss": check_loss,
    "eps": functools.partial(checks.check_radius, "eps"),
    "step_size": functools.partial(checks.check_step, "step_size"),
}


def check_options(
    given: Mapping[str, Any], own: Mapping[str, inspect.Parameter]
) -> None:
    """Checks those of an attack's `own` options that are given; traced numbers pass.

    What all attacks share by name, others by annotation: a range is named there, as
    `Annotated[float, Range(0, 1)]`, or a whole number is at least 0, others finite.

    Raises:
      TypeError: for what is no number, no whole one or no flag ('no' is none).
      ValueError: for one out of its range, and unknown norms and losses.
    """
    for name, value in given.items():
        kinds, within = read_annotation(own[name])
        if value is None and NoneType in kinds:
            continue
        kinds -= {NoneType}
        if name in _SHARED:
            _SHARED[name](value)
        elif kinds == {int}:
            checks.check_count(name, value, int(within.low) if within else 0)
        elif within or kinds == {float}:
            checks.check_number(name, value, within or _ANY)
        elif kinds == {bool} and not isinstance(value, bool | np.bool_):
            raise TypeError(f"`{name}` must be True or False, got {value!r}.")
        elif len(kinds) == 1 and get_origin(kind := kinds.pop()) is Literal:
            checks.check_choice(name, value, get_args(kind))


def read_annotation(parameter: inspect.Parameter) -> tuple[set[Any], Range | None]:
    """Returns the kinds that an option may be of (NoneType: None), and its range."""
    kinds, ranges = set(), []
    left = [parameter.annotation]
    while left:
        kind = left.pop()
        if get_origin(kind) is Annotated:
            ranges += [one for one in kind.__metadata__ if isinstance(one, Range)]
            left.append(kind.__origin__)
        elif get_origin(kind) in (Union, UnionType):
            left += get_args(kind)
        else:
            kinds.add(kind)
    return kinds, ranges[0] if ranges else None


def check_call(problem: Problem, method: Method, key: Any) -> None:
    """Checks shapes, dtypes and what goes together: all that needs no array's value."""
    x, start = problem.x, problem.x_init
    checks.check_norm(problem.norm, method.norms)
    check_images(x)
    norm = problem.norm if method.ball else None
    checks.check_shape("eps", problem.eps, x.shape, norm)
    checks.check_shape(method.length, problem.step_size, x.shape, norm)
    if start is not None and (
        (shape := getattr(start, "shape", None)) != x.shape or start.dtype != x.dtype
    ):
        raise ValueError(
            f"`x_init` must be like `x`, shape {x.shape} and dtype {x.dtype}, got "
            f"{f'{shape} {start.dtype}' if shape else type(start).__name__}."
        )
    checks.check_labels(problem.y, x.shape[0])
    checks.check_function(problem.logits_fn)
    if problem.eot_samples > 1 and not problem.stochastic:
        raise ValueError(
            f"`eot_samples` = {problem.eot_samples} averages over a model's "
            "randomness: it needs stochastic=True and a model called with keys."
        )
    if reason := method.needs_key or ("stochastic=True" if problem.stochastic else ""):
        need_key(key, reason)


def need_key(key: Any, reason: str) -> None:
    """Raises unless there is a key."""
    if key is None:
        raise ValueError(
            f"`key` is missing and {reason} needs one: pass "
            "key=jax.random.key(seed), or one key per example."
        )


def check_images(x: Any) -> None:
    """Checks the type and rank of images `[B, ...]`, of which there must be some."""
    checks.check_images(x, flat=True)
    checks.check_not_empty(x)


def check_examples(x: Any, y: Any, bounds: Any) -> None:
    """Checks what an evaluation is given: images, in full precision, and labels."""
    checks.check_bounds(bounds)
    check_images(x)
    if x.dtype not in checks.FLOATING[:2]:
        raise TypeError(
            f"`x` must be float32 or float64, got {x.dtype}: in half precision a ball "
            "holds few images. Pass x.astype(np.float32); the model may cast."
        )
    checks.check_labels(y, x.shape[0])
    checks.check_values(x, bounds)


def warn(health: Health) -> None:
    """Raises for logits that are not finite and warns the caller about the rest."""
    finite, probabilities, zero, later = (np.asarray(part) for part in health)
    if not finite.all():
        raise ValueError(
            f"The model's logits are not finite for {int((~finite).sum())} of "
            f"{finite.size} images, so no attack on them means anything."
        )
    told = []
    if probabilities.all():
        told.append(
            "The model returns probabilities (every row is in [0, 1] and sums to 1), "
            "not logits: gradients vanish and robustness looks better than it is. "
            "Attack the logits instead."
        )
    if later.any():
        told.append(
            f"The model's logits were not finite for {int(later.sum())} of "
            f"{later.size} images at points that the attack tried: such points count "
            "as no success, and robustness looks better than it is."
        )
    if zero.any():
        told.append(
            f"The gradient of the loss is zero or NaN for {int(zero.sum())} of "
            f"{zero.size} images at every step (or its value, for attacks by scores, "
            "never changed): the attack cannot move them, and their robustness is not "
            "to be trusted. Try another loss or a black-box attack; scores must be "
            "logits in float32 without a large constant, not probabilities or votes."
        )
    for text in told:
        warnings.warn(text, RobustnessWarning, stacklevel=frames_inside())


def frames_inside() -> int:
    """Counts the frames of this package, so that a warning names its caller's line.

    Attacks call each other, and `attacks.get` wraps them: the depth differs.
    """
    frame, count = inspect.currentframe(), 0
    package = __name__.rpartition(".")[0]
    while frame and frame.f_globals.get("__name__", "").startswith(package):
        frame, count = frame.f_back, count + 1
    return count
