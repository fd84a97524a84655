"""TRADES: clean cross-entropy plus the divergence an attack can cause."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Distributions, Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses.classification import cross_entropy


def trades(
    logits: Logits,
    logits_adv: Logits,
    y: Labels | Distributions,
    beta: Scalar = 6.0,
) -> PerExample:
    """Accuracy on clean images, traded against what an attack can change.

        CE(z, y) + beta KL(softmax z || softmax z_adv)

    Args:
      logits: z `[B, K]` of clean images.
      logits_adv: z_adv `[B, K]` of attacked images.
      y: `[B]`, integers in [0, K), or distributions `[B, K]`.
      beta: weight of the divergence, at least 0 (1/lambda of the paper).

    Returns:
      `[B]`, at least 0.

    Reference:
      Zhang et al. 2019 (arXiv 1901.08573), equation 5, with the KL divergence of the
      released code as the boundary term.

    Example:
      >>> z, z_adv = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]])
      >>> print(losses.trades(z, z_adv, jnp.array([0]), beta=6.0))
      [9.266]
    """
    divergence = kl_divergence(logits, logits_adv)
    _checks.check_number("beta", beta)
    # Gradients flow into both terms' clean logits, as in the release.
    return cross_entropy(logits, y) + beta * divergence


def kl_divergence(logits: Logits, logits_adv: Logits) -> PerExample:
    """Divergence of the attacked prediction from the clean one.

        KL(p || q)  =  sum_j p_j (log p_j - log q_j),    q = softmax(z_adv)

    The boundary term of TRADES and MART. Returns `[B]`, at least 0, 0 where both
    predict the same, for z `[B, K]` of clean images and z_adv of attacked ones.

    Reference:
      Kullback and Leibler 1951, Annals of Mathematical Statistics 22, 79-86.

    Example:
      >>> p, q = jnp.array([[0.5, 0.5]]), jnp.array([[0.25, 0.75]])
      >>> print(losses.kl_divergence(jnp.log(p), jnp.log(q)))
      [0.144]
    """
    _checks.check_logits("divergence", 1, logits=logits, logits_adv=logits_adv)
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    # Where p is 0 the term is 0; the inner `where` keeps its gradient finite too.
    gap = jnp.where(p > 0, log_p - jax.nn.log_softmax(logits_adv), 0)
    return jnp.sum(p * gap, axis=-1)
