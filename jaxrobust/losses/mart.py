"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses._classes import is_class, pick
from jaxrobust.losses.classification import cross_entropy
from jaxrobust.losses.divergence import kl_divergence


def mart(
    logits: Logits, logits_adv: Logits, y: Labels, beta: Scalar = 5.0
) -> PerExample:
    """Boosted cross-entropy; images that are wrong without an attack count more.

        BCE(q, y) + beta KL(p || q) (1 - p_y),    p clean, q = softmax(z_adv)
        BCE(q, y)  =  -log q_y - log(1 - max_{k != y} q_k)

    The released code takes log(1.0001 - q_k), which stops the second term at 9.2; here
    it is the paper's, computed from the logits.

    Args:
      logits: z `[B, K]` of clean images, K at least 2.
      logits_adv: z_adv `[B, K]` of attacked images.
      y: `[B]`, integers in [0, K).
      beta: weight of the divergence, at least 0 (lambda of the paper).

    Returns:
      `[B]`, at least 0.

    Reference:
      Wang et al. 2020 (ICLR), equation 11.

    Example:
      >>> z, z_adv = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]])
      >>> print(losses.mart(z, z_adv, jnp.array([0]), beta=5.0))
      [5.162]
    """
    _checks.check_logits(2, "mart", logits=logits)
    divergence = kl_divergence(logits, logits_adv)
    _checks.check_number("beta", beta)
    true = cross_entropy(logits_adv, y)
    others = jnp.where(is_class(y, logits.shape[1]), -jnp.inf, logits_adv)
    boosted = true + _log_of_rest(logits_adv, jnp.argmax(others, axis=1))
    # The weight has a gradient too: the clean prediction is trained by it.
    return boosted + beta * divergence * (1 - pick(jax.nn.softmax(logits), y))


def _log_of_rest(logits: Logits, k: Labels) -> PerExample:
    """-log(1 - softmax(z)_k), without the cancellation where class k has it all."""
    others = jnp.where(is_class(k, logits.shape[1]), -jnp.inf, logits)
    return jax.nn.logsumexp(logits, axis=1) - jax.nn.logsumexp(others, axis=1)
