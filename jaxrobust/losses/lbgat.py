"""LBGAT: attacked images are to have the logits that a natural network gives."""

import jax.numpy as jnp

from jaxrobust.array_types import Distributions, Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses.classification import cross_entropy
from jaxrobust.losses.trades import kl_divergence


def lbgat(
    logits: Logits,
    logits_adv: Logits,
    logits_guide: Logits,
    y: Labels | Distributions,
    beta: Scalar = 0.0,
) -> PerExample:
    """Squared distance to a guide's logits, which learns to classify meanwhile.

        |z_adv - z_guide|^2 / K + CE(z_guide, y) + beta KL(softmax z || softmax z_adv)

    Args:
      logits: z `[B, K]` of clean images.
      logits_adv: z_adv `[B, K]` of attacked images.
      logits_guide: z_guide `[B, K]` of the clean images, by a network trained beside.
        Gradients flow into it from the distance too, as in the release: it gives in.
      y: `[B]`, integers in [0, K), or distributions `[B, K]`.
      beta: weight of the divergence, at least 0; the paper has 0 and 6.

    Returns:
      `[B]`, at least 0.

    Reference:
      Cui et al., ICCV 2021 (arXiv 2011.11164); terms as in the released code.

    Example:
      >>> z, guide = jnp.array([[2.0, 0.0]]), jnp.array([[4.0, 0.0]])
      >>> print(losses.lbgat(z, z, guide, jnp.array([0])))
      [2.018]
    """
    _checks.check_number("beta", beta)
    _checks.check_logits(
        "distance", 1, logits_adv=logits_adv, logits_guide=logits_guide
    )
    distance = jnp.mean(jnp.square(logits_adv - logits_guide), axis=-1)
    divergence = kl_divergence(logits, logits_adv)
    return distance + cross_entropy(logits_guide, y) + beta * divergence
