"""What every loss checks: kinds and shapes of arrays, numbers that are on the host.

Values of arrays on a device are not looked at: that would wait for them. A label there
that names no class gives NaN.
"""

import math
from typing import Any

import jax
import numpy as np

from jaxrobust import _checks


def check_logits(least: int, loss: str, **logits: Any) -> None:
    """Raises unless logits, by name, are alike and have the classes a loss compares."""
    (first, given), *others = logits.items()
    for name, array in logits.items():
        _checks.check_floating(name, array, "[B, K]", ", one row per example")
    for name, array in others:
        check_like(name, array, first, given.shape)
    if given.shape[1] < least:
        raise ValueError(
            f"The {loss} loss needs logits of at least {least} classes, got "
            f"{given.shape[1]}; use cross_entropy"
            f"{' or margin' if given.shape[1] > 1 else ''} instead."
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
    """Raises unless `y` holds an integer for each row, a class where classes count."""
    _checks.check_labels(y, batch, name, f"row of `{rows}`")
    if classes is not None and isinstance(y, np.ndarray):
        _checks.check_classes(y, classes, name)


def check_number(name: str, value: Any, high: float = math.inf) -> None:
    """Raises unless a number lies in [0, high]; an array of jax passes."""
    if isinstance(value, jax.Array):
        return
    rule = "at least 0 and not NaN" if high == math.inf else ""
    _checks.check_number(name, value, _checks.Range(0, high, rule=rule))
