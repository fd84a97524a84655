"""Kullback-Leibler divergence between the predictions of two batches of logits."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Logits, PerExample
from jaxrobust.losses import _checks


def kl_divergence(logits: Logits, logits_adv: Logits) -> PerExample:
    """Divergence of the attacked prediction from the clean one.

        KL(p || q)  =  sum_j p_j (log p_j - log q_j),    q = softmax(z_adv)

    The boundary term of TRADES and MART.

    Args:
      logits: z `[B, K]` of clean images.
      logits_adv: z_adv `[B, K]` of attacked images.

    Returns:
      `[B]`, at least 0, 0 where both predict the same.

    Reference:
      Kullback and Leibler 1951, Annals of Mathematical Statistics 22, 79-86.

    Example:
      >>> p, q = jnp.array([[0.5, 0.5]]), jnp.array([[0.25, 0.75]])
      >>> print(losses.kl_divergence(jnp.log(p), jnp.log(q)))
      [0.144]
    """
    _checks.check_logits(1, "divergence", logits=logits, logits_adv=logits_adv)
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    # Where p is 0 the term is 0; the inner `where` keeps its gradient finite too.
    gap = jnp.where(p > 0, log_p - jax.nn.log_softmax(logits_adv), 0)
    return jnp.sum(p * gap, axis=-1)
