"""SCORE: accuracy and robustness by squared errors of the probabilities."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Distributions, Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses._classes import is_class, known


def score(
    logits: Logits,
    logits_adv: Logits,
    y: Labels | Distributions,
    beta: Scalar = 4.0,
    slack: Scalar = 0.0,
) -> PerExample:
    """Squared error of the clean probabilities, and of what an attack changes of them.

        ||p - q||^2 + beta max(||p_adv - p||^2 - slack, 0),    q the label's shares

    Squared errors keep the triangle inequality, which the KL divergence of TRADES does
    not: the two terms ask for one and the same predictor.

    Args:
      logits: `[B, K]` of clean images, p = softmax.
      logits_adv: `[B, K]` of attacked images.
      y: `[B]`, integers in [0, K), or distributions `[B, K]`.
      beta: weight of the second term, at least 0.
      slack: change that costs nothing, at least 0.

    Returns:
      `[B]`, at least 0, at most 2 + 2 beta.

    Reference:
      Pang et al., Robustness and accuracy could be reconcilable by (proper) definition,
      ICML 2022 (arXiv 2202.10103), section 4, the squared error in TRADES.

    Example:
      >>> z, z_adv = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]])
      >>> print(losses.score(z, z_adv, jnp.array([0]), beta=4.0))
      [4.669]
    """
    _checks.check_number("beta", beta)
    _checks.check_number("slack", slack)
    change = squared_error(logits_adv, jax.nn.softmax(logits))
    return squared_error(logits, y) + beta * jnp.maximum(change - slack, 0)


def squared_error(logits: Logits, y: Labels | Distributions) -> PerExample:
    """Squared distance of the probabilities from a label, or from others.

        ||softmax(z) - q||^2  =  sum_j (softmax(z)_j - q_j)^2

    Returns `[B]`, in [0, 2], for z `[B, K]` and labels `[B]` or distributions q
    `[B, K]`.

    Reference:
      Brier 1950, Monthly Weather Review 78, 1-3, equation 2, for one forecast.

    Example:
      >>> z = jnp.array([[0.0, 0.0], [0.0, 0.0]])
      >>> print(losses.squared_error(z, jnp.array([[1.0, 0.0], [0.5, 0.5]])))
      [0.5 0. ]
    """
    if _checks.are_distributions(y):
        shares = _checks.distributions("squared_error", logits, y)
    else:
        _checks.check("squared_error", 1, logits, y=y)
        classes = logits.shape[1]
        # A label that is no class would be a row of zeros, and look like an error.
        named = (known(y, classes) < classes)[:, None]
        shares = jnp.where(named, is_class(y, classes).astype(logits.dtype), jnp.nan)
    return jnp.sum((jax.nn.softmax(logits) - shares) ** 2, axis=1)
