"""The lead of the largest logit over the second: what verdicts depend on.

Other classes, constants that all logits share, and their scale say nothing here.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrobust import losses

Logits = Float[np.ndarray, "n K"]

# Steps of the dtype by which rounding in another program may move a lead.
_SLACK = 4


def typical(logits: Logits) -> float:
    """Returns the median lead; above 0 if any row has one."""
    lead = _lead(logits, logits)
    return float(np.median(lead) or lead.max())


def steps(logits: Logits, dtype: Any) -> Float[np.ndarray, "n"]:
    """Returns how far apart the numbers of `dtype` are at the largest of each row.

    Args:
      logits: in `dtype` or wider.
      dtype: in which the network gave them.
    """
    top = _deciding(logits, logits)
    size = jnp.asarray(np.abs(top).max(-1))
    return np.asarray(losses.spacing(size, dtype), np.float64)


def change(one: Logits, other: Logits, dtype: Any) -> Float[np.ndarray, "n"]:
    """Returns by how much of a typical lead that of each row differs in `other`.

    The lead is that of the two classes that are largest in `one`. A few steps of the
    dtype are no change; what is not finite is an infinite one.

    Args:
      one: logits.
      other: of the same images.
      dtype: in which the network gave them.
    """
    step = steps(one, dtype)
    with np.errstate(invalid="ignore"):
        moved = np.abs(_lead(one, other) - _lead(one, one)) - _SLACK * step
    usual = max(typical(one), float(step.max()))
    return np.nan_to_num(np.maximum(moved, 0) / usual, nan=np.inf)


def _lead(order: Logits, logits: Logits) -> Float[np.ndarray, "n"]:
    second, first = _deciding(order, logits).T
    return first - second


def _deciding(order: Logits, logits: Logits) -> Float[np.ndarray, "n 2"]:
    """The logits of the two classes that are largest in `order`, in float64."""
    classes = np.argsort(order, -1, kind="stable")[:, -2:]
    return np.take_along_axis(np.asarray(logits, np.float64), classes, -1)
