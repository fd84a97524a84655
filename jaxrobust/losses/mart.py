"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses.classification import cross_entropy
from jaxrobust.losses.divergence import kl_divergence


def mart(
    logits: Logits, logits_adv: Logits, y: Labels, beta: Scalar = 5.0
) -> PerExample:
    """MART, BCE(q, y) + beta * KL(p || q) * (1 - p_y), p clean and q attacked.

    BCE(q, y) = -log q_y - log(1 - max_{k != y} q_k): cross-entropy with a margin. Wang
    et al. 2020 (ICLR), equation 11. The released code takes log(1.0001 - q_k), which
    stops the second term at 9.2; here it is the paper's, computed from the logits.

    Args:
      logits: `[B, K]` of clean images, K at least 2.
      logits_adv: `[B, K]` of attacked images.
      y: `[B]`, integers in [0, K).
      beta: weight of the divergence, at least 0 (lambda of the paper).

    Returns:
      `[B]`, at least 0.

    Raises:
      ValueError: with fewer than two classes, shapes that do not fit, a label that is
        no class, or a `beta` below 0 or NaN.
      TypeError: unless logits are floating and labels integers.
    """
    divergence = kl_divergence(logits, logits_adv)
    _checks.check_classes(logits, 2, "mart")
    _checks.check_labels(logits, y)
    _checks.check_weight("beta", beta)
    true = _checks.is_class(y, logits.shape[1])
    rival = jnp.argmax(jnp.where(true, -jnp.inf, logits_adv), axis=1)
    wrong = 1 - jnp.sum(jnp.where(true, jax.nn.softmax(logits), 0), axis=1)
    boosted = cross_entropy(logits_adv, y) + _log_of_rest(logits_adv, rival)
    return boosted + beta * divergence * wrong


def _log_of_rest(logits: Logits, k: Labels) -> PerExample:
    """-log(1 - softmax(z)_k), without the cancellation where class k has it all."""
    named = _checks.is_class(k, logits.shape[1])
    rest = jax.nn.logsumexp(jnp.where(named, -jnp.inf, logits), axis=1)
    return jax.nn.logsumexp(logits, axis=1) - rest
