"""Telling probabilities from logits, in one place and with one tolerance."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrobust.array_types import Logits

_TOLERANCE = 1e-3  # of the sum; half precision rounds by more


def are_probabilities(logits: Logits) -> Bool[Array, "B"]:
    """Which rows of `[B, K]` are in [0, 1] and sum to 1, to within rounding."""
    slack = max(_TOLERANCE, 4 * float(jnp.finfo(logits.dtype).eps))
    total = jnp.sum(logits, axis=-1, dtype=jnp.promote_types(logits.dtype, jnp.float32))
    inside = jnp.all((logits >= 0) & (logits <= 1), axis=-1)
    return inside & (jnp.abs(total - 1) <= slack)
