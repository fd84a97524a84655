"""Losses of logits `[B, K]` and labels `[B]` that attacks maximise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.array_types import Labels, Logits, PerExample
from jaxrobust.losses import _checks


def cross_entropy(logits: Logits, y: Labels) -> PerExample:
    """Cross-entropy, -log softmax(z)_y.

    Args:
      logits: `[B, K]`.
      y: `[B]`, integers in [0, K).

    Returns:
      `[B]`, at least 0.

    Raises:
      ValueError: for shapes that do not fit, or a label that is no class.
      TypeError: unless logits are floating and labels integers.
    """
    _check(logits, 1, "cross_entropy", y=y)
    return -_take(jax.nn.log_softmax(logits), y)


def margin(logits: Logits, y: Labels) -> PerExample:
    """Margin max_{j != y} z_j - z_y: positive exactly where misclassified.

    Args:
      logits: `[B, K]`, K at least 2.
      y: `[B]`, integers in [0, K).

    Returns:
      `[B]`, in logit units.

    Raises:
      ValueError: with fewer than two classes, shapes that do not fit, or a label
        that is no class.
      TypeError: unless logits are floating and labels integers.
    """
    _check(logits, 2, "margin", y=y)
    others = jnp.where(_checks.is_class(y, logits.shape[1]), -jnp.inf, logits)
    return jnp.max(others, axis=1) - _take(logits, y)


def dlr(logits: Logits, y: Labels) -> PerExample:
    """Difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_(1) - z_(3)).

    Invariant to shifting and scaling the logits; positive where misclassified.
    Croce and Hein 2020 (AutoAttack, arXiv 2003.01690), section 4, equation 6.

    Args:
      logits: `[B, K]`, K at least 3.
      y: `[B]`, integers in [0, K).

    Returns:
      `[B]`.

    Raises:
      ValueError: with fewer than three classes, shapes that do not fit, or a label
        that is no class.
      TypeError: unless logits are floating and labels integers.
    """
    _check(logits, 3, "dlr", y=y)
    top, classes = jax.lax.top_k(logits, 3)
    other = jnp.where(classes[:, 0] == y, top[:, 1], top[:, 0])
    return -(_take(logits, y) - other) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(logits: Logits, y: Labels, target: Labels) -> PerExample:
    """Targeted ratio, -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), to be maximised.

    Croce and Hein 2020 (arXiv 2003.01690), section 4, equation 7.

    Args:
      logits: `[B, K]`, K at least 4.
      y: `[B]`, true classes.
      target: `[B]`, classes to move to.

    Returns:
      `[B]`.

    Raises:
      ValueError: with fewer than four classes, shapes that do not fit, or a label
        that is no class.
      TypeError: unless logits are floating and labels integers.
    """
    _check(logits, 4, "dlr_targeted", y=y, target=target)
    top, _ = jax.lax.top_k(logits, 4)
    spread = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12
    return -(_take(logits, y) - _take(logits, target)) / spread


def _take(logits: Logits, classes: Labels) -> Float[Array, " B"]:
    return jnp.take_along_axis(logits, classes[:, None], axis=1).squeeze(1)


def _check(logits: Logits, least: int, name: str, **labels: Labels) -> None:
    _checks.check_logits(logits)
    _checks.check_classes(logits, least, name)
    for argument, classes in labels.items():
        _checks.check_labels(logits, classes, argument)
