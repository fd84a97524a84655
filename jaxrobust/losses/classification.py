"""Losses of logits z `[B, K]` and labels y `[B]`, in [0, K), that attacks maximise."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Distributions, Labels, Logits, PerExample
from jaxrobust.losses import _checks
from jaxrobust.losses._classes import pick, without


def cross_entropy(logits: Logits, y: Labels | Distributions) -> PerExample:
    """Cross-entropy of the softmax.

        -log softmax(z)_y  =  log(sum_j exp z_j) - z_y

    Returns `[B]`, at least 0. Labels may be distributions q `[B, K]`, of mixed or
    smoothed labels; then it is - sum_j q_j log softmax(z)_j.

    Reference:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.108.

    Example:
      >>> z = jnp.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
      >>> print(losses.cross_entropy(z, jnp.array([0, 1])))
      [0.408 2.408]
    """
    if _checks.are_distributions(y):
        y = _checks.distributions("cross_entropy", logits, y)
        log_p = jax.nn.log_softmax(logits)
        # A class that has no share costs nothing, however unlikely it is.
        return -jnp.sum(jnp.where(y <= 0, 0, y * log_p), axis=1)
    _checks.check("cross_entropy", 1, logits, y=y)
    return -pick(jax.nn.log_softmax(logits), y)


def margin(logits: Logits, y: Labels) -> PerExample:
    """Margin of the best wrong class: positive exactly where misclassified.

        max_{j != y} z_j - z_y

    Returns `[B]`, in logit units; K is at least 2.

    Reference:
      Carlini and Wagner 2017 (arXiv 1608.04644), section V-A, f6 without its hinge.

    Example:
      >>> z = jnp.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
      >>> print(losses.margin(z, jnp.array([0, 1])))
      [-1.  2.]
    """
    _checks.check("margin", 2, logits, y=y)
    return jnp.max(without(logits, y), axis=1) - pick(logits, y)


def dlr(logits: Logits, y: Labels) -> PerExample:
    """Difference of logits ratio: the margin, free of the logits' shift and scale.

        -(z_y - max_{j != y} z_j) / (z_(1) - z_(3)),    z_(1) >= z_(2) >= z_(3) ...

    Returns `[B]`, positive where misclassified; K is at least 3.

    Reference:
      Croce and Hein 2020 (AutoAttack, arXiv 2003.01690), section 4, equation 6.

    Example:
      >>> z = jnp.array([[5.0, 3.0, 2.0, 1.0]])
      >>> print(losses.dlr(z, jnp.array([0])))
      [-0.667]
    """
    _checks.check("dlr", 3, logits, y=y)
    top, classes = jax.lax.top_k(logits, 3)
    other = jnp.where(classes[:, 0] == y, top[:, 1], top[:, 0])
    # As in the release: three equal logits give 0 over 1e-12, not NaN.
    return -(pick(logits, y) - other) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """Difference of logits ratio towards one class; it is maximised.

        -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)

    Returns `[B]`, for classes `target` `[B]`, t, to move to; K is at least 4.

    Reference:
      Croce and Hein 2020 (AutoAttack, arXiv 2003.01690), section 4, equation 7.

    Example:
      >>> z = jnp.array([[5.0, 3.0, 2.0, 1.0]])
      >>> print(losses.dlr_targeted(z, jnp.array([0]), jnp.array([1])))
      [-0.571]
    """
    _checks.check("dlr_targeted", 4, logits, y=y, target=target)
    top, _ = jax.lax.top_k(logits, 4)
    spread = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12
    return -(pick(logits, y) - pick(logits, target)) / spread
