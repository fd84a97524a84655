"""Probabilistically compact loss and logit constraints (Li et al., AAAI 2021)."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks


def pc(logits: Logits, y: Labels, margin: Scalar = 0.995) -> PerExample:
    """Probabilistically compact loss, mean_{j != y} max(0, p_j + margin - p_y).

    It is 0 once the true class leads every other one by `margin` in probability, and at
    most 1 + margin. Li et al. 2021 (arXiv 2012.07688), equation 1, with p = softmax(z).

    Args:
      logits: `[B, K]`, K at least 2.
      y: `[B]`, integers in [0, K).
      margin: gap in probability that is asked for, in [0, 1].

    Returns:
      `[B]`; its mean over the batch is the paper's loss.

    Raises:
      ValueError: with fewer than two classes, shapes that do not fit, a label that is
        no class, or a margin outside [0, 1].
      TypeError: unless logits are floating and labels integers.
    """
    others = _others(logits, y, "pc")
    _checks.check_range("margin", margin, 0, 1)
    p = jax.nn.softmax(logits)
    gap = p + margin - jnp.sum(jnp.where(others, 0, p), axis=1, keepdims=True)
    hinge = jnp.where(others, jnp.maximum(gap, 0), 0)
    return jnp.sum(hinge, axis=1) / (logits.shape[1] - 1)


def logit_constraint(logits: Logits, y: Labels) -> PerExample:
    """Logit constraint, sum_{j != y} q_j max(0, z_y - z_j).

    q is the softmax over the wrong classes: a soft choice of the strongest of them. The
    term keeps the true logit from running away from it, which a softmax rewards. Li et
    al. 2021 (arXiv 2012.07688), equation 5; the gradient flows through q, as in the
    release. The release masks the true class by a logit of -1000, here it is left out,
    which is the same unless the wrong logits are as low.

    Args:
      logits: `[B, K]`, K at least 2.
      y: `[B]`, integers in [0, K).

    Returns:
      `[B]`, at least 0, in logit units.

    Raises:
      ValueError: with fewer than two classes, shapes that do not fit, or a label that
        is no class.
      TypeError: unless logits are floating and labels integers.
    """
    others = _others(logits, y, "logit_constraint")
    q = jax.nn.softmax(jnp.where(others, logits, -jnp.inf))
    true = jnp.sum(jnp.where(others, 0, logits), axis=1, keepdims=True)
    return jnp.sum(q * jnp.maximum(true - logits, 0), axis=1)


def _others(logits: Logits, y: Labels, name: str) -> jax.Array:
    """Checks the arguments; returns where a class is a wrong one, bool [B, K]."""
    _checks.check_logits(logits)
    _checks.check_classes(logits, 2, name)
    _checks.check_labels(logits, y)
    return ~_checks.is_class(y, logits.shape[1])
