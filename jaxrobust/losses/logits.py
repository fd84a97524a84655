"""Logits of any dtype and padding: numbers to compare, or probabilities by mistake."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrobust.array_types import Logits

# Where classes that cannot win are put: differences, and ratios over them, keep digits.
LAST = -1e10
# In units of the largest logit, where that is more: no class that can win is there.
_FAR = -100
_SUM_TOLERANCE = 1e-3  # of probabilities; half precision rounds by more


def comparable(logits: Logits) -> Logits:
    """Logits in float32 at least, classes that cannot win at a finite value.

    Half precision is widened, so that a loss has no coarser rounding than the network
    itself, and each value is one that the dtype has, also where a compiler would leave
    the rounding out. Minus infinity (or less than -1e10, and than -100 times the
    largest logit) in a class, where another one has more, means that it cannot win: it
    becomes that number. NaN, infinity, and a row without any class that can win stay as
    they are: no prediction.

    Args:
      logits: `[B, K]`, floating; other arrays are returned as they are.
    """
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        return logits
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    if wide != logits.dtype:
        kept, logits = jnp.finfo(logits.dtype), logits.astype(wide)
        exact = jax.lax.reduce_precision(logits, kept.nexp, kept.nmant)
        # Added, so that gradients are not rounded as well.
        lost = jnp.where(jnp.isfinite(logits), exact - logits, 0)
        logits = logits + jax.lax.stop_gradient(lost)
    # Held: where hopeless classes are put must not pull at the largest logit.
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    last = jnp.minimum(jnp.asarray(LAST, wide), _FAR * top)
    return jnp.where((logits < last) & (top > LAST), last, logits)


def spacing(logits: Logits, dtype: Any) -> Logits:
    """The step from a logit's size to the next larger number of its dtype.

    Args:
      logits: any shape, in `dtype` or wider.
      dtype: in which the network gave them.
    """
    kept = jnp.finfo(dtype)
    _, exponent = jnp.frexp(jnp.abs(logits))
    size = jnp.ldexp(jnp.asarray(float(kept.eps), logits.dtype), exponent - 1)
    # The exponent of 0 says nothing; no step is smaller than the smallest number.
    return jnp.maximum(jnp.where(logits == 0, 0, size), float(kept.tiny))


def are_probabilities(logits: Logits) -> Bool[Array, "B"]:
    """Which rows of `[B, K]` are in [0, 1] and sum to 1, to within rounding."""
    slack = max(_SUM_TOLERANCE, 4 * float(jnp.finfo(logits.dtype).eps))
    total = jnp.sum(logits, axis=-1, dtype=jnp.promote_types(logits.dtype, jnp.float32))
    inside = jnp.all((logits >= 0) & (logits <= 1), axis=-1)
    return inside & (jnp.abs(total - 1) <= slack)
