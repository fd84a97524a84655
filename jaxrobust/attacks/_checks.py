"""What an attack checks before it computes, and what it warns about after."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import threat
from jaxrobust._checks import Range as Range
from jaxrobust._checks import check_count as check_count
from jaxrobust._checks import check_number as check_within
from jaxrobust.attacks._method import Health, Method
from jaxrobust.attacks._objective import Problem, RobustnessWarning, check_loss

_COUNTS = {
    "steps": 0,
    "restarts": 1,
    "draws": 1,
    "eot_samples": 1,
    "queries": 0,
    "targets": 1,
    "binary_steps": 1,
    "rounds": 1,
    "samples": 1,
    "coordinates": 1,
}
_FLOATING = tuple(
    jnp.dtype(name) for name in ("float32", "float64", "float16", "bfloat16")
)


# Numbers that only some attacks have. Far beyond these nothing of their papers holds,
# and float32 overflows.
_RANGES: Mapping[str, Range] = {
    "alpha_max": Range(0, 1),
    "beta": Range(0, 1, above=True),
    "const": Range(0, 1e10, above=True),
    "decay": Range(0, 10),
    "delta": Range(0, 1e6, above=True),
    "eta": Range(1, 10),
    "h": Range(0, 1e6, above=True),
    "initial_const": Range(0, 1e10, above=True),
    "kappa": Range(0, 1e10),
    "largest_const": Range(0, 1e10, above=True),
    "lr": Range(0, 1e6),
    "overshoot": Range(0, 100),
    "p_init": Range(0, 1, above=True),
    "rho": Range(0, 1),
}
_LENGTHS = ("eps", "step_size")
_STATIC: Mapping[str, Callable[[Any], None]] = {
    "norm": threat.check_norm,
    "bounds": threat.check_bounds,
    "loss": check_loss,
}


def check_static(problem: Problem, method: Method, key: Any) -> None:
    """Checks names, counts, shapes and dtypes: all that needs no array's value."""
    threat.check_norm(problem.norm)
    check_loss(problem.loss)
    threat.check_bounds(problem.bounds)
    threat.check_radius("eps", problem.eps)
    if problem.step_size is not problem.eps:
        threat.check_step("step_size", problem.step_size)
    check_images(problem.x)
    norm = problem.norm if method.ball else None
    for name in ("eps", "step_size"):
        threat.check_shape(name, getattr(problem, name), problem.x.shape, norm)
    check_labels(problem.y, problem.x.shape[0])
    check_count("steps", method.steps, _COUNTS["steps"])
    check_count("restarts", method.restarts, _COUNTS["restarts"])
    check_count("eot_samples", problem.eot_samples, _COUNTS["eot_samples"])
    if not callable(problem.logits_fn):
        raise TypeError(
            "`logits_fn` must be a function from images to logits, got "
            f"{type(problem.logits_fn).__name__}."
        )
    if problem.eot_samples > 1 and not problem.stochastic:
        raise ValueError(
            f"`eot_samples` = {problem.eot_samples} averages over a model's "
            "randomness: it needs stochastic=True and a model called with keys."
        )
    method.check()
    if method.needs_key or problem.stochastic:
        need_key(key, method.needs_key or "stochastic=True")


def need_key(key: Any, reason: str) -> None:
    """Raises unless there is a key."""
    if key is None:
        raise ValueError(
            f"`key` is missing and {reason} needs one: pass "
            "key=jax.random.key(seed), or one key per example."
        )


def check_ranges(**given: Any) -> None:
    """Checks numbers that only some attacks have, by name; traced ones pass.

    Raises:
      TypeError: for what is no number.
      ValueError: for one out of the range of its name.
    """
    for name, value in given.items():
        check_within(name, value, _RANGES[name])


def check_hyperparameters(given: Mapping[str, Any]) -> None:
    """Checks those of an attack's keyword arguments that are given, before any call."""
    for name, value in given.items():
        if name in _COUNTS:
            check_count(name, value, _COUNTS[name])
        elif name in _LENGTHS and not (name == "step_size" and value is None):
            (threat.check_radius if name == "eps" else threat.check_step)(name, value)
        elif name in _RANGES:
            check_ranges(**{name: value})
        elif name in _STATIC:
            _STATIC[name](value)


def check_types(given: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Checks options that are flags and numbers: 'no' is no flag, NaN no number."""
    for name, value in given.items():
        kind = annotations[name]
        if kind is bool and not isinstance(value, bool | np.bool_):
            raise TypeError(f"`{name}` must be True or False, got {value!r}.")
        if kind is int:
            check_count(name, value, _COUNTS.get(name, 0))
        if kind is float:
            if isinstance(value, bool | str) or not isinstance(
                value, int | float | np.number
            ):
                raise TypeError(f"`{name}` must be a number, got {value!r}.")
            if not np.isfinite(value):
                raise ValueError(f"`{name}` must be finite, got {value}.")


def check_images(x: Any) -> None:
    """Checks the type and rank of images."""
    if not hasattr(x, "dtype") or not hasattr(x, "ndim"):
        raise TypeError(f"`x` must be an array of images, got {type(x).__name__}.")
    if x.dtype == jnp.uint8:
        raise TypeError(
            "`x` is uint8; attacks need floating images in `bounds`: divide by 255."
        )
    if x.dtype not in _FLOATING:
        raise TypeError(
            "`x` must be floating, float32 (or float64, float16, bfloat16), got "
            f"{x.dtype}."
        )
    if x.ndim < 2:
        raise ValueError(f"`x` must have shape [B, H, W, C], got {x.shape}.")
    if 0 in x.shape:
        raise ValueError(
            f"`x` holds no image, its shape is {x.shape}: leave empty batches out."
        )


def check_start(problem: Problem) -> None:
    """Checks that the start that is given is like the images."""
    start, x = problem.x_init, problem.x
    shape, dtype = getattr(start, "shape", None), getattr(start, "dtype", None)
    if shape != x.shape or dtype != x.dtype:
        raise ValueError(
            f"`x_init` must be like `x`, shape {x.shape} and dtype {x.dtype}, got "
            f"{type(start).__name__ if shape is None else f'{shape} {dtype}'}."
        )


def check_labels(y: Any, batch: int) -> None:
    """Checks the type and shape of labels."""
    if not hasattr(y, "dtype") or not jnp.issubdtype(y.dtype, jnp.integer):
        kind = getattr(y, "dtype", type(y).__name__)
        raise TypeError(
            f"`y` must hold integer labels, got {kind}; use jnp.asarray(y, jnp.int32)."
        )
    if y.shape != (batch,):
        hint = ""
        if len(y.shape) == 2 and y.shape[0] == batch and y.shape[1] > 1:
            hint = "; of one-hot labels take y.argmax(1)"
        elif not y.shape:
            hint = "; of a single image take x[None] and y[None]"
        raise ValueError(
            f"`y` must hold one label per image, shape ({batch},), got {y.shape}{hint}."
        )


def check_examples(x: Any, y: Any, bounds: Any) -> None:
    """Checks what an evaluation is given: images, in full precision, and labels."""
    threat.check_bounds(bounds)
    check_images(x)
    if x.dtype not in _FLOATING[:2]:
        raise TypeError(
            f"`x` must be float32 or float64, got {x.dtype}: in half precision a ball "
            "holds few images. Pass x.astype(np.float32); the model may cast."
        )
    check_labels(y, x.shape[0])
    check_values(x, bounds)


def check_values(x: jax.Array | np.ndarray, bounds: tuple[float, float]) -> None:
    """Checks that images lie in the box."""
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    # A wall of the box may lie between two numbers of half precision.
    x = x.astype(threat.wide_dtype(x.dtype))
    first, last = np.asarray(bounds, x.dtype)
    # Not by min and max: on a CPU they pass over NaN.
    if not xp.all((x >= first) & (x <= last)):
        low, high = float(xp.min(x)), float(xp.max(x))
        nan = int(xp.isnan(x).sum())
        if nan:
            raise ValueError(f"`x` is not finite: {nan} of its values are NaN.")
        raise ValueError(
            f"`x` leaves `bounds` {tuple(bounds)}: its values go from {low:.6g} to "
            f"{high:.6g}. Pass images in `bounds` (normalise inside the model) or the "
            "bounds they have."
        )


def check_classes(y: Any, classes: int) -> None:
    """Checks that labels name one of the model's classes, where they can be seen.

    In the dtype in which they are given: cast to int32, 2^32 + 3 would be class 3.
    """
    if isinstance(y, Tracer) or not getattr(y, "is_fully_addressable", True):
        return
    y = np.asarray(y)
    if not y.size:
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"`y` holds labels from {low} to {high}, but the model's logits have "
            f"{classes} classes: labels must be in [0, {classes - 1}]."
        )


def warn(health: Health) -> None:
    """Raises for logits that are not finite and warns the caller about the rest."""
    finite, probabilities, zero = (np.asarray(part) for part in health)
    if not finite.all():
        raise ValueError(
            f"The model's logits are not finite for {int((~finite).sum())} of "
            f"{finite.size} images, so no attack on them means anything."
        )
    if finite.size and probabilities.all():
        warnings.warn(
            "The model returns probabilities (every row is in [0, 1] and sums to 1), "
            "not logits: gradients vanish and robustness looks better than it is. "
            "Attack the logits instead.",
            RobustnessWarning,
            stacklevel=_frames_inside(),
        )
    if zero.any():
        warnings.warn(
            f"The gradient of the loss is zero or NaN for {int(zero.sum())} of "
            f"{zero.size} images at every step: the attack cannot move them, and their "
            "robustness is not to be trusted. Try another loss or a black-box attack.",
            RobustnessWarning,
            stacklevel=_frames_inside(),
        )


def _frames_inside() -> int:
    """Counts the frames of this package, so that a warning names its caller's line.

    Attacks call each other, and `attacks.get` wraps them: the depth differs.
    """
    try:
        raise RuntimeError
    except RuntimeError as error:
        frame = error.__traceback__.tb_frame if error.__traceback__ else None
    package, count = __name__.rpartition(".")[0], 0
    while frame and frame.f_globals.get("__name__", "").startswith(package):
        frame, count = frame.f_back, count + 1
    return count
