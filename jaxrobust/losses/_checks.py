"""What every loss checks: kinds and shapes of arrays, numbers that are on the host.

Values of arrays on a device are not looked at: that would wait for them. A label there
that names no class, or shares that are no distribution, give NaN.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _checks
from jaxrobust.array_types import Distributions


def check(loss: str, least: int, logits: Any, **labels: Any) -> None:
    """Raises unless a loss can take logits of `least` classes and labels, by name."""
    check_logits(loss, least, logits=logits)
    for name, y in labels.items():
        check_labels(y, logits.shape[0], logits.shape[1], name)


def are_distributions(y: Any) -> bool:
    """Says whether labels are given as a share of each class, `[B, K]`."""
    return getattr(y, "ndim", 0) == 2 and jnp.issubdtype(y.dtype, jnp.floating)


def distributions(loss: str, logits: Any, y: Any) -> Distributions:
    """Returns labels `[B, K]` as shares; rows that are no distribution as NaN.

    Raises:
      TypeError, ValueError: for arrays that do not fit, and for such rows on the host.
    """
    check_logits(loss, 1, logits=logits, y=y)
    # Rounding of half precision counts as in `are_probabilities`.
    slack = max(1e-3, 4 * float(jnp.finfo(y.dtype).eps))
    total = y.sum(1, dtype=jnp.promote_types(y.dtype, jnp.float32))
    sound = (y >= -slack).all(1) & (abs(total - 1) <= slack)
    if isinstance(y, np.ndarray) and not sound.all():
        first = int(np.argmin(sound))
        raise ValueError(
            f"`y` must be distributions, rows of at least 0 that sum to 1, got "
            f"{y[first].tolist()} in row {first}."
        )
    return jnp.where(sound[:, None], y, jnp.nan)


def check_logits(loss: str, least: int, **logits: Any) -> None:
    """Raises unless logits, by name, are alike and have the classes a loss compares."""
    (first, given), *_ = logits.items()
    for name, array in logits.items():
        _checks.check_floating(name, array, "[B, K]", ", one row per example")
        if array.shape != given.shape:
            raise ValueError(
                f"`{name}` must have the shape of `{first}`, {given.shape}, got "
                f"{array.shape}."
            )
    if given.shape[1] < least:
        raise ValueError(
            f"The {loss} loss needs logits of at least {least} classes, got "
            f"{given.shape[1]}; use cross_entropy"
            f"{' or margin' if given.shape[1] > 1 else ''} instead."
        )


def check_labels(
    y: Any, batch: int, classes: int, name: str = "y", rows: str = "logits"
) -> None:
    """Raises unless `y` holds an integer for each row, a class where it is seen."""
    _checks.check_labels(y, batch, name, f"row of `{rows}`")
    if isinstance(y, np.ndarray):
        _checks.check_classes(y, classes, name)


def check_number(name: str, value: Any, high: float = math.inf) -> None:
    """Raises unless a number lies in [0, high]; an array of jax passes."""
    if isinstance(value, jax.Array):
        return
    rule = "at least 0 and not NaN" if high == math.inf else ""
    _checks.check_number(name, value, _checks.Range(0, high, rule=rule))
