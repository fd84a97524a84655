"""What logits say and how finely: judged by the classes that decide.

A prediction is about the largest logit and those near it. A class that cannot win
(padding at -1e9), a constant added to all, and the scale of the logits change nothing
of it, so they count in none of these numbers but by how coarsely they let a float tell
two logits apart: `resolution` is `finfo(dtype).eps` of the coarsest float type behind
the logits, `dtype` the one in which the network gave them.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrobust import losses
from jaxrobust.analysis.logits import log_odds
from jaxrobust.array_types import Labels, Logits

CEILING = 1e-3  # of the range of the logits that count: closer than this is the same
_COARSE = 0.02  # of that range: logits on steps of this say nothing about a ceiling
# Steps of the dtype by which rounding in another program may move a lead.
_SLACK = 4
_HOPELESS = 1e3  # typical leads behind: a class that cannot win


class Saturation(NamedTuple):
    """Where logits leave a loss nothing to rise from, per image.

    Attributes:
      certain: the softmax in float32 gives one class exactly 1.
      no_loss: the cross-entropy in float32 is exactly 0.
      at_ceiling: the largest logit is the largest of all images, as under a bounded
        last layer (tanh), to within `CEILING` of the range of all logits that count.
    """

    certain: Bool[np.ndarray, "N"]
    no_loss: Bool[np.ndarray, "N"]
    at_ceiling: Bool[np.ndarray, "N"]


def saturation(logits: Logits, y: Labels, resolution: float = 0.0) -> Saturation:
    """Looks at finite logits `[N, K]` of images with labels `[N]`."""
    certain, no_loss = _rounded(jnp.asarray(logits, jnp.float32), jnp.asarray(y))
    ceiling = _at_ceiling(np.asarray(logits, np.float64), resolution)
    return Saturation(np.asarray(certain), np.asarray(no_loss), ceiling)


@jax.jit
def _rounded(logits: Logits, y: Labels) -> tuple[Bool[Array, "N"], Bool[Array, "N"]]:
    certain = jax.nn.softmax(logits, -1).max(-1) == 1
    return certain, losses.cross_entropy(logits, y) == 0


def _at_ceiling(
    logits: Float[np.ndarray, "N K"], resolution: float
) -> Bool[np.ndarray, "N"]:
    second, top = _deciding(logits, logits).T
    counts = logits > top[:, None] - _HOPELESS * typical_lead(logits)
    span = top.max() - logits[counts].min()
    near = max(CEILING * span, resolution * np.abs(top).max())
    if near > _COARSE * span:
        return np.zeros(len(top), bool)
    # Log-probabilities, and logits less their largest, have their own ceiling: 0.
    total = np.logaddexp.reduce(logits, -1)
    if np.ptp(total) <= near or not top.any():
        top = top - second
    return np.asarray(top >= top.max() - near)


def typical_lead(logits: Float[np.ndarray, "N K"], tied: float = 1.0) -> float:
    """Returns the median lead of the largest logit over the second.

    It is the largest lead where the median is 0, and `tied` where no row has one.
    """
    own = leads(logits, logits)
    return float(np.median(own)) or float(own.max()) or tied


def lead_change(
    one: Float[np.ndarray, "N K"], other: Float[np.ndarray, "N K"], dtype: Any
) -> Float[np.ndarray, "N"]:
    """Returns by how much of a typical lead that of each row differs in `other`.

    Both are logits of the same images. The lead is that of the two classes that are
    largest in `one`. A few steps of the dtype are no change; what is not finite is an
    infinite one.
    """
    step = lead_spacing(one, dtype)
    with np.errstate(invalid="ignore"):
        moved = np.abs(leads(one, other) - leads(one, one)) - _SLACK * step
    usual = max(typical_lead(one, tied=0.0), float(step.max()))
    return np.nan_to_num(np.maximum(moved, 0) / usual, nan=np.inf)


def lead_spacing(
    logits: Float[np.ndarray, "N K"], dtype: Any
) -> Float[np.ndarray, "N"]:
    """Returns how far apart the numbers of `dtype` are at the two largest of each row.

    The logits themselves may be in a wider type.
    """
    size = jnp.asarray(np.abs(_deciding(logits, logits)).max(-1))
    return np.asarray(losses.spacing(size, dtype), np.float64)


def leads(
    order: Float[np.ndarray, "N K"], logits: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, "N"]:
    """Returns by how much the class that is largest in `order` leads the second."""
    second, first = _deciding(order, logits).T
    return first - second


def _deciding(
    order: Float[np.ndarray, "N K"], logits: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, "N 2"]:
    """The logits of the two classes that are largest in `order`, in float64."""
    classes = np.argsort(order, -1, kind="stable")[:, -2:]
    return np.take_along_axis(np.asarray(logits, np.float64), classes, -1)


def looks_like_probabilities(logits: Float[np.ndarray, "N K"]) -> bool:
    """Whether every row is in [0, 1] and sums to 1; see `losses.are_probabilities`.

    A class that is below 0 on every image cannot win, and is left out.
    """
    able = jnp.asarray(logits)[:, np.asarray(logits).max(0) >= 0]
    return bool(able.shape[1] and np.asarray(losses.are_probabilities(able)).all())


def rounding(
    logits: Float[np.ndarray, "N K"], y: Int[np.ndarray, "N"], resolution: float
) -> Float[np.ndarray, "N"]:
    """Returns how finely label and best other class can be told apart, per image."""
    wide = np.asarray(logits, np.float64)
    own = np.arange(wide.shape[-1]) == np.asarray(y)[:, None]
    other = np.where(own, -np.inf, wide).max(-1)
    return resolution * np.maximum(np.abs(wide[own]), np.abs(other))


def relative_change(
    one: Float[np.ndarray, "N K"],
    other: Float[np.ndarray, "N K"],
    resolution: float = 0.0,
    lead: float | None = None,
) -> float:
    """Returns by how much two outputs for the same images differ.

    It is the largest change of the log-odds of the class that `one` predicts, beyond
    what rounding explains, over `lead`, the typical one of `one` by default: 0 where
    they are the same, infinite where either holds a NaN.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if np.isnan(one).any() or np.isnan(other).any():
        return math.inf
    top = one.argmax(-1)
    before, after = log_odds(one, top), log_odds(other, top)
    # Each of two logits may come out one step off.
    beyond = np.abs(after - before) - 2 * rounding(one, top, resolution)
    return float(np.max(beyond, initial=0) / (lead or typical_lead(one)))
