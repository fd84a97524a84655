"""Arguments checked and told before any compute, for all pure packages.

Traced values pass, and those that other processes hold: under jit only shapes and
types are looked at.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.array_types import Bounds, Key, Norm

# Those whose balls have steps of a length; the others count what changes.
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
SPARSE: tuple[Norm, ...] = ("l0", "l0_pixels")
ALL_NORMS: tuple[Norm, ...] = get_args(Norm)
# The types of images, full precision first.
FLOATING = tuple(map(jnp.dtype, ("float32", "float64", "float16", "bfloat16")))

# Beyond, float32 tells no two images apart that differ by less than .06.
_LARGEST_BOUND = 1e6
# Of the larger bound: a box that is narrower has too few numbers in it.
_NARROWEST_BOX = 1e-4


def nearest(name: object, known: Iterable[str], cutoff: float = 0.0) -> str:
    """Returns the nearest of the known names; '' where none is near enough."""
    lowered = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=cutoff)
    return lowered[close[0]] if close else ""


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.0) -> str:
    """Asks for the nearest of the known names; '' where none is near enough."""
    near = nearest(name, known, cutoff)
    return f"Did you mean {near!r}?" if near else ""


def nearest_match(name: object, known: Iterable[str]) -> str:
    """Returns the sentence that ends every error about an unknown name."""
    known = sorted(known)
    return f"{did_you_mean(name, known)} Known: {', '.join(known)}."


def check_choice(name: str, value: object, known: Iterable[str]) -> None:
    """Raises ValueError unless `value` is one of `known`."""
    known = tuple(known)
    if value not in known:
        raise ValueError(
            f"`{name}` must be one of {', '.join(known)}, got {value!r}. "
            f"{did_you_mean(value, known)}"
        )


def concrete(value: Any) -> np.ndarray | None:
    """Returns a value as numbers; None where it is traced or on another process."""
    if isinstance(value, Tracer) or not getattr(value, "is_fully_addressable", True):
        return None
    return np.asarray(value)


class Range(NamedTuple):
    """Where numbers must lie.

    With `above` the least itself is left out; `rule` says it in words where the numbers
    do not.
    """

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    rule: str = ""

    def __repr__(self) -> str:
        """As it is written, for signatures."""
        high = f", {self.high:g}" * (self.high < math.inf)
        return f"Range({self.low:g}{high}{', above=True' * self.above})"

    def broken_by(self, values: np.ndarray) -> str | None:
        """Says what values must be that are not all in it; None where they are."""
        low = (values > self.low if self.above else values >= self.low).all()
        if low and (values <= self.high).all():
            return None
        if self.rule:
            return self.rule
        least, most = f"{self.low:g}", f"{self.high:g}"
        if self.high <= 1:
            share = f"in [{least}, {most}]"
            return f"above 0 and at most {most}" if self.above else share
        if low:
            return f"at most {most}"
        return f"finite and above {least}" if self.above else f"at least {least}"


SHARE = Range(0, 1)
FINITE = Range(0, float(np.finfo(np.float64).max), rule="at least 0 and finite")


def check_number(name: str, value: Any, within: Range) -> None:
    """Raises TypeError for what is no number, or ValueError for one out of range."""
    values = concrete(value)
    if values is None:
        return
    if not _is_real(values):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if told := within.broken_by(values.astype(np.float64)):
        wrong = [within.broken_by(v) is not None for v in values.ravel().astype(float)]
        raise ValueError(f"`{name}` must be {told}, got {_first(values, wrong)}.")


def check_one_number(name: str, value: Any, within: Range) -> None:
    """Raises, as `check_number`, also for an array of several."""
    if np.shape(value):
        raise ValueError(f"`{name}` must be one number, got shape {np.shape(value)}.")
    check_number(name, value, within)


def _first(values: np.ndarray, wrong: Any) -> str:
    """Says a number; of an array the first that is wrong, where, how many more are."""
    if not values.ndim:
        return str(values)
    [at, *more] = np.flatnonzero(wrong).tolist()
    where = list(map(int, np.unravel_index(at, values.shape)))
    others = f" and {len(more)} more" * bool(more)
    return f"{values.ravel()[at]} at {where}{others}"


def check_count(name: str, value: Any, least: int) -> None:
    """Checks a static whole number."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be a Python int, got {value!r}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}.")


def check_function(given: object, name: str = "logits_fn", to: str = "logits") -> None:
    """Raises TypeError unless a network, or the like, is handed in as a function."""
    if not callable(given):
        raise TypeError(
            f"`{name}` must be a function from images to {to}, got "
            f"{type(given).__name__}."
        )


def check_norm(norm: object, known: Sequence[Norm] = ALL_NORMS) -> None:
    """Raises ValueError unless `norm` is known, and one of those that are here."""
    if not isinstance(norm, str) or norm not in ALL_NORMS:
        raise ValueError(f"Unknown norm {norm!r}. {nearest_match(norm, known)}")
    if norm not in known:
        listed = " or ".join(map(repr, known))
        raise ValueError(f"`norm` must be {listed} here, got {norm!r}.")


def check_bounds(bounds: Any) -> None:
    """Raises ValueError unless bounds are two increasing numbers; traced ones pass."""
    if isinstance(bounds, tuple | list) and len(bounds) == 2:
        if any(isinstance(value, Tracer) for value in bounds):
            return
        # True and False are no numbers.
        if all(not np.ndim(v) and _is_real(np.asarray(v)) for v in bounds):
            low, high = (float(value) for value in bounds)
            far = max(abs(low), abs(high))
            if far > _LARGEST_BOUND:
                raise ValueError(
                    f"`bounds` must be finite and within {_LARGEST_BOUND:g} of 0, got "
                    f"{bounds!r}: pass the range that images can have, such as (0.0, "
                    "1.0); what lies outside of it is no image."
                )
            if low < high and high - low >= _NARROWEST_BOX * far:
                return
    raise ValueError(
        f"`bounds` must be (low, high) with low < high, two numbers, got {bounds!r}; "
        "use (0.0, 1.0) for images in [0, 1]."
    )


def _is_real(value: np.ndarray) -> bool:
    kinds = (jnp.floating, jnp.integer)
    return any(jnp.issubdtype(value.dtype, kind) for kind in kinds)


def check_radius(name: str, value: Any) -> None:
    """Raises, naming the argument, unless `value` is numbers of at least 0."""
    values = concrete(value)
    if values is None:
        return
    if not _is_real(values):
        text = ": fractions as text are for configs" if isinstance(value, str) else ""
        got = f"{values.tolist()!r}{text}"
        raise TypeError(f"`{name}` must be a number, such as 8 / 255, got {got}.")
    if not (values >= 0).all():
        got = _first(values, ~(values >= 0))
        raise ValueError(f"`{name}` must be at least 0 and not NaN, got {got}.")


def check_step(name: str, value: Any) -> None:
    """Raises, as `check_radius`, also for a length that is infinite."""
    check_radius(name, value)
    values = concrete(value)
    if values is None:
        return
    if (wrong := np.isinf(values.astype(np.float64))).any():
        raise ValueError(f"`{name}` must be finite, got {_first(values, wrong)}.")


def check_one_radius(name: str, value: Any) -> None:
    """Raises, as `check_radius`, also unless it is a single finite number."""
    if np.shape(value):
        raise ValueError(
            f"`{name}` must be one number for all images here, got shape "
            f"{np.shape(value)}; radii per image, channel or pixel are for the attacks "
            "themselves."
        )
    check_step(name, value)


def check_shape(
    name: str, value: Any, shape: tuple[int, ...], norm: Norm | None
) -> None:
    """Raises unless a radius fits images: one for all, `[B]`, in Linf one per value.

    `shape` is that of the images, `[B, ...]`; `norm` is None where there are no radii
    per value in any.
    """
    got = np.shape(value)
    if got in ((), shape[:1]):
        return
    fits = len(got) == len(shape) and all(
        n in (1, m) for n, m in zip(got, shape, strict=True)
    )
    if fits and (norm == "linf" or all(n == 1 for n in got[1:])):
        return
    batch, *rest = shape
    allowed = f"one number, or one per example, shape ({batch},)"
    if fits:
        raise ValueError(
            f"`{name}` of shape {got} is per channel or pixel, for which there is no "
            f"rule {'in this attack' if norm is None else f'in {norm}'}: it must be "
            f"{allowed}; in norm='linf' attacks that look inside a ball take radii per "
            "channel and pixel."
        )
    if norm == "linf":
        channels = (1,) * len(rest) + (rest[-1],)
        allowed += f", per channel, {channels}, or per value, {shape}"
    raise ValueError(
        f"`{name}` must be {allowed}, for images of shape {shape}, got shape {got}."
    )


def check_kind(array: Any, kind: Any, must: str, hint: str = "") -> None:
    """Raises TypeError, saying what an array `must` be, unless its dtype is one."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, kind):
        raise TypeError(f"{must}, got {dtype or type(array).__name__}{hint}.")


def check_floating(name: str, array: Any, shape: str, hint: str = "") -> None:
    """Raises unless an array is floating and has the two axes of `shape`, '[B, D]'."""
    check_kind(array, jnp.floating, f"`{name}` must be a floating array {shape}")
    if array.ndim != 2:
        raise ValueError(f"`{name}` must have shape {shape}, got {array.shape}{hint}.")


def check_images(
    x: Any,
    name: str = "x",
    *,
    flat: bool = False,
    channels: Sequence[int] = (),
    least: int = 1,
    who: str = "",
    hint: str = "",
) -> None:
    """Raises unless `x` is a floating array of images `[B, H, W, C]`.

    Args:
      x: what was given for images.
      name: of the argument, in an error.
      flat: whether any array `[B, ...]` will do.
      channels: how many there may be; by default any number.
      least: pixels of the shorter side.
      who: needs these channels and pixels, in an error.
      hint: what to do about fewer pixels.
    """
    dtype = getattr(x, "dtype", None)
    if dtype is None or dtype not in FLOATING:
        raise TypeError(
            f"`{name}` must be floating images, float32 (or float64, float16, "
            f"bfloat16), got {dtype or type(x).__name__}; of 8-bit images divide by "
            f"255, as jnp.asarray({name}, jnp.float32) / 255."
        )
    if x.ndim < 2 or (x.ndim != 4 and not flat):
        raise ValueError(
            f"`{name}` must have shape [B, H, W, C], got {x.shape}; a single image "
            f"needs a batch axis, {name}[None], grey images a channel axis."
        )
    if channels and x.shape[-1] not in channels:
        known = " or ".join(map(str, channels))
        raise ValueError(
            f"{who} needs images of {known} channels, got {x.shape[-1]} (`{name}` of "
            f"shape {x.shape})."
        )
    height, width = x.shape[1:3] if x.ndim == 4 else (least, least)
    if min(height, width) < least:
        raise ValueError(
            f"{who} needs images of at least {least}x{least} pixels, got "
            f"{height}x{width} (`{name}` of shape {x.shape}){hint}."
        )


def check_values(
    x: jax.Array | np.ndarray, bounds: Bounds | None = None, name: str = "x"
) -> None:
    """Raises unless all numbers of images lie in the box; in [0, 1] without bounds."""
    if _on_host(x):  # where NumPy looks at them as they are, and nothing is compiled
        x = np.asarray(x)
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    # A wall of the box may lie between two numbers of half precision.
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    first, last = np.asarray((0, 1) if bounds is None else bounds, x.dtype)
    # Not by min and max: on a CPU they pass over NaN.
    if not xp.all((x >= first) & (x <= last)):
        if nan := int(xp.isnan(x).sum()):
            raise ValueError(f"`{name}` is not finite: {nan} of its values are NaN.")
        box, advice = "[0, 1]", "Undo any normalisation first."
        if bounds is not None:
            box = f"`bounds` {tuple(bounds)}"
            advice = (
                "Pass images in `bounds` (normalise inside the model) or the bounds "
                "they have."
            )
        raise ValueError(
            f"`{name}` leaves {box}: its values go from {float(xp.min(x)):.9g} to "
            f"{float(xp.max(x)):.9g}. {advice}"
        )


def _on_host(x: Any) -> bool:
    return isinstance(x, np.ndarray) or (
        x.is_fully_addressable and all(d.platform == "cpu" for d in x.devices())
    )


def check_not_empty(x: Any) -> None:
    """Raises where an array holds no image."""
    if 0 in x.shape:
        raise ValueError(
            f"`x` holds no image, its shape is {x.shape}: leave empty batches out."
        )


def check_labels(y: Any, batch: int, name: str = "y", row: str = "image") -> None:
    """Raises unless labels are integers, one for each of `batch` rows."""
    hint = f"; use jnp.asarray({name}, jnp.int32)"
    check_kind(y, jnp.integer, f"`{name}` must hold integer labels", hint)
    if y.shape != (batch,):
        hint = ""
        if len(y.shape) == 2 and y.shape[0] == batch and y.shape[1] > 1:
            hint = f"; of one-hot labels take {name}.argmax(1)"
        elif not y.shape:
            hint = f"; of a single image take x[None] and {name}[None]"
        raise ValueError(
            f"`{name}` must hold one label per {row}, shape ({batch},), got "
            f"{y.shape}{hint}."
        )


def check_classes(y: Any, classes: int, name: str = "y") -> None:
    """Raises unless labels name one of so many classes, where they can be seen.

    In the dtype in which they are given: cast to int32, 2^32 + 3 would be class 3.
    """
    values = concrete(y)
    if values is None or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"`{name}` holds labels from {low} to {high}, but there are {classes} "
            f"classes: labels must be in [0, {classes - 1}]."
        )


def row_keys(key: Key, batch: int) -> Key:
    """Returns one key per row: `[B]` keys pass, of one key row i gets fold_in(key, i).

    Raises:
      TypeError: for an old-style uint32 key.
      ValueError: for an array of keys of another shape.
    """
    must = "`key` must be a new-style key, one or one per example"
    hint = "; make it with jax.random.key(seed)"
    check_kind(key, jax.dtypes.prng_key, must, hint)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(
            f"`key` must be one key or one per example, shape ({batch},), "
            f"got shape {key.shape}."
        )
    return key
