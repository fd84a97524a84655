"""Logits of any dtype and padding, as numbers that losses and verdicts can compare."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Logits

# Where classes that cannot win are put: differences, and ratios over them, keep digits.
LAST = -1e10
# In units of the largest logit, where that is more: no class that can win is there.
_FAR = -100


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
    return jnp.maximum(jnp.where(logits == 0, 0, size), float(kept.tiny))
