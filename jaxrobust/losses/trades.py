"""TRADES: clean cross-entropy plus the divergence an attack can cause."""

from jaxrobust.array_types import Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses.classification import cross_entropy
from jaxrobust.losses.divergence import kl_divergence


def trades(
    logits: Logits, logits_adv: Logits, y: Labels, beta: Scalar = 6.0
) -> PerExample:
    """Accuracy on clean images, traded against what an attack can change.

        CE(z, y) + beta KL(softmax z || softmax z_adv)

    Args:
      logits: z `[B, K]` of clean images.
      logits_adv: z_adv `[B, K]` of attacked images.
      y: `[B]`, integers in [0, K).
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
