"""HAT: what an attack changes, and that a farther image is no longer the class's."""

from jaxrobust.array_types import Distributions, Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses.classification import cross_entropy
from jaxrobust.losses.trades import trades


def hat(
    logits: Logits,
    logits_adv: Logits,
    logits_helper: Logits,
    y: Labels | Distributions,
    y_helper: Labels,
    beta: Scalar = 2.5,
    gamma: Scalar = 0.5,
) -> PerExample:
    """TRADES, and cross-entropy on images beyond the ball with labels of their own.

        CE(z, y) + beta KL(softmax z || softmax z_adv) + gamma CE(z_helper, y_helper)

    Args:
      logits: z `[B, K]` of clean images x.
      logits_adv: z_adv `[B, K]` of attacked images x + r.
      logits_helper: z_helper `[B, K]` of helper images x + h r, with h above 1.
      y: `[B]`, integers in [0, K), or distributions `[B, K]`.
      y_helper: `[B]`, what a network trained without attacks says of x + r.
      beta: weight of the divergence, at least 0.
      gamma: weight of the helper images, at least 0.

    Returns:
      `[B]`, at least 0.

    Reference:
      Rade and Moosavi-Dezfooli, ICLR 2022, "Reducing Excessive Margin to Achieve a
      Better Accuracy vs. Robustness Trade-off"; terms as in the released code.

    Example:
      >>> z, far = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]])
      >>> print(losses.hat(z, z, far, jnp.array([0]), jnp.array([1])))
      [0.19]
    """
    _checks.check_number("gamma", gamma)
    _checks.check_logits("hat", 1, logits=logits, logits_helper=logits_helper)
    kept = trades(logits, logits_adv, y, beta)
    return kept + gamma * cross_entropy(logits_helper, y_helper)
