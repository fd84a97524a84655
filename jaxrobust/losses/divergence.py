"""Kullback-Leibler divergence between the predictions of two batches of logits."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Logits, PerExample
from jaxrobust.losses import _checks


def kl_divergence(logits: Logits, logits_adv: Logits) -> PerExample:
    """KL(softmax z || softmax z_adv), the boundary term of TRADES and MART.

    Args:
      logits: `[B, K]` of clean images.
      logits_adv: `[B, K]` of attacked images.

    Returns:
      `[B]`, at least 0, 0 where both predict the same.

    Raises:
      ValueError: for shapes that differ or are not `[B, K]`.
      TypeError: unless both are floating.
    """
    _checks.check_logits(logits)
    _checks.check_logits(logits_adv, "logits_adv")
    if logits_adv.shape != logits.shape:
        raise ValueError(
            f"`logits_adv` must have the shape of `logits`, {logits.shape}, got "
            f"{logits_adv.shape}."
        )
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    # Where p is 0 the term is 0; the inner `where` keeps its gradient finite too.
    gap = jnp.where(p > 0, log_p - jax.nn.log_softmax(logits_adv), 0)
    return jnp.sum(p * gap, axis=-1)
