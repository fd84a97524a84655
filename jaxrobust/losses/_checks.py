"""What every loss checks: arrays of the right kind, labels that name a class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from jaxrobust.array_types import Labels


def check_logits(logits: Any, name: str = "logits") -> None:
    """Raises unless logits are floating and `[B, K]`."""
    dtype = getattr(logits, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be a floating array [B, K], got "
            f"{dtype or type(logits).__name__}; pass what the network returns."
        )
    if logits.ndim != 2:
        raise ValueError(
            f"`{name}` must have shape [B, K], one row per example, got {logits.shape}."
        )


def check_labels(logits: Any, y: Any, name: str = "y") -> None:
    """Raises unless `y` holds one class of `logits` per row.

    Where labels are traced, or lie on other processes, their range is not looked at.
    """
    batch, classes = logits.shape
    check_integers(y, name, batch)
    values = concrete(y)
    if values is None or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"`{name}` holds labels from {low} to {high}, but `logits` have {classes} "
            f"classes: labels must be in [0, {classes - 1}]."
        )


def check_integers(y: Any, name: str, batch: int, rows: str = "logits") -> None:
    """Raises unless `y` holds an integer for each of `batch` rows."""
    dtype = getattr(y, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"`{name}` must be an array of integer labels [B], got "
            f"{dtype or type(y).__name__}; use jnp.asarray(labels, jnp.int32)."
        )
    if y.shape != (batch,):
        raise ValueError(
            f"`{name}` must hold one label per row of `{rows}`, shape ({batch},), got "
            f"{y.shape}."
        )


def check_classes(logits: Any, least: int, loss: str) -> None:
    """Raises unless logits have the classes that a loss compares."""
    if logits.shape[-1] < least:
        raise ValueError(
            f"The {loss} loss needs logits of at least {least} classes, got "
            f"{logits.shape[-1]}; use cross_entropy"
            f"{' or margin' if logits.shape[-1] > 1 else ''} instead."
        )


def is_class(y: Labels, classes: int) -> Bool[Array, "B K"]:
    """Says which of `classes` classes each row is of; any integer dtype will do."""
    return (
        jnp.arange(classes, dtype=jnp.int32)[None] == jnp.asarray(y, jnp.int32)[:, None]
    )


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raises unless a number lies in [low, high]; a traced one passes."""
    values = concrete(value)
    if values is None:
        return
    if not jnp.issubdtype(values.dtype, jnp.number):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if not ((low <= values) & (values <= high)).all():
        raise ValueError(f"`{name}` must be in [{low:g}, {high:g}], got {value}.")


def check_weight(name: str, value: Any) -> None:
    """Raises unless a weight is a number of at least 0; a traced one passes."""
    values = concrete(value)
    if values is None:
        return
    if not jnp.issubdtype(values.dtype, jnp.number):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if not (values >= 0).all():
        raise ValueError(f"`{name}` must be at least 0 and not NaN, got {value}.")


def concrete(value: Any) -> np.ndarray | None:
    """Returns a value as numbers; None where it is traced or on another process."""
    if isinstance(value, Tracer):
        return None
    if not getattr(value, "is_fully_addressable", True):
        return None
    return np.asarray(jax.device_get(value))
