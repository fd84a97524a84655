"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses._classes import pick, without
from jaxrobust.losses.classification import cross_entropy
from jaxrobust.losses.trades import kl_divergence


def mart(
    logits: Logits, logits_adv: Logits, y: Labels, beta: Scalar = 5.0
) -> PerExample:
    """Boosted cross-entropy; images that are wrong without an attack count more.

        BCE(q, y) + beta KL(p || q) (1 - p_y),    p clean, q = softmax(z_adv)
        BCE(q, y)  =  -log q_y - log(1 - max_{k != y} q_k)

    The released code takes log(1.0001 - q_k), which stops the second term at 9.2; here
    it is the paper's, computed from the logits.

    Returns `[B]`, at least 0; K is at least 2. `beta` is the paper's lambda; for the
    other arguments see `trades`.

    Reference:
      Wang et al. 2020 (ICLR), equation 11.

    Example:
      >>> z, z_adv = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]])
      >>> print(losses.mart(z, z_adv, jnp.array([0]), beta=5.0))
      [5.162]
    """
    _checks.check("mart", 2, logits, y=y)
    divergence = kl_divergence(logits, logits_adv)
    _checks.check_number("beta", beta)
    true = cross_entropy(logits_adv, y)
    wrong = jnp.argmax(without(logits_adv, y), axis=1)
    boosted = true + _log_of_rest(logits_adv, wrong)
    # The weight has a gradient too: the clean prediction is trained by it.
    return boosted + beta * divergence * (1 - pick(jax.nn.softmax(logits), y))


def _log_of_rest(logits: Logits, k: Labels) -> PerExample:
    """-log(1 - softmax(z)_k), without the cancellation where class k has it all."""
    rest = jax.nn.logsumexp(without(logits, k), axis=1)
    return jax.nn.logsumexp(logits, axis=1) - rest
