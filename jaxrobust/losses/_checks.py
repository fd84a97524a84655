"""What every loss checks: kinds and shapes of arrays, numbers that are on the host.

Values of arrays on a device are not looked at: that would wait for them. A label there
that names no class gives NaN.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _checks


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


def check_like(name: str, array: Any, other: str, shape: tuple[int, ...]) -> None:
    """Raises unless an array has the shape of another one."""
    if array.shape != shape:
        raise ValueError(
            f"`{name}` must have the shape of `{other}`, {shape}, got {array.shape}."
        )


def check_labels(
    y: Any, batch: int, classes: int | None, name: str = "y", rows: str = "logits"
) -> None:
    """Raises unless `y` holds an integer for each of `batch` rows.

    Where classes count, labels on the host must be in [0, classes): cast to int32,
    2^32 + 3 would be 3.
    """
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
    if classes is not None and isinstance(y, np.ndarray) and y.size:
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"`{name}` holds labels from {low} to {high}, but there are {classes} "
                f"classes: labels must be in [0, {classes - 1}]."
            )


def check_classes(logits: Any, least: int, loss: str) -> None:
    """Raises unless logits have the classes that a loss compares."""
    if logits.shape[-1] < least:
        raise ValueError(
            f"The {loss} loss needs logits of at least {least} classes, got "
            f"{logits.shape[-1]}; use cross_entropy"
            f"{' or margin' if logits.shape[-1] > 1 else ''} instead."
        )


def check_number(name: str, value: Any, high: float = math.inf) -> None:
    """Raises unless a number lies in [0, high]; an array of jax passes."""
    if isinstance(value, jax.Array):
        return
    rule = "at least 0 and not NaN" if high == math.inf else ""
    _checks.check_number(name, value, _checks.Range(0, high, rule=rule))
