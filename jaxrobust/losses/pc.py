"""Probabilistically compact loss and logit constraints (Li et al., AAAI 2021)."""

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Labels, Logits, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses._classes import is_class, pick, without


def pc(logits: Logits, y: Labels, margin: Scalar = 0.995) -> PerExample:
    """Probabilistically compact loss: the true class leads each other by a margin.

        1 / (K - 1)  sum_{j != y} max(0, p_j + margin - p_y)

    Args:
      logits: z `[B, K]`, K at least 2.
      y: `[B]`, integers in [0, K).
      margin: gap in probability that is asked for, in [0, 1].

    Returns:
      `[B]`, from 0 to 1 + margin; its mean over the batch is the paper's loss.

    Reference:
      Li et al. 2021 (arXiv 2012.07688), equation 1.

    Example:
      >>> p = jnp.array([[0.6, 0.3, 0.1]])
      >>> print(losses.pc(jnp.log(p), jnp.array([0]), margin=0.5))
      [0.1]
    """
    _checks.check("pc", 2, logits, y=y)
    _checks.check_number("margin", margin, 1)
    p = jax.nn.softmax(logits)
    # A gradient for the true class as well: it is to rise while the others fall.
    gap = p + margin - pick(p, y)[:, None]
    # The true class would add its margin to every row.
    hinge = jnp.where(is_class(y, logits.shape[1]), 0, jnp.maximum(gap, 0))
    return jnp.sum(hinge, axis=1) / (logits.shape[1] - 1)


def logit_constraint(logits: Logits, y: Labels) -> PerExample:
    """Keeps the true logit from running away from the others, as a softmax rewards.

        sum_{j != y} q_j max(0, z_y - z_j),    q = softmax over the wrong classes

    q is a soft choice of the strongest of them.

    Returns `[B]`, at least 0, in logit units; K is at least 2.

    Reference:
      Li et al. 2021 (arXiv 2012.07688), equation 5; the gradient flows through q, as in
      the release. The release masks the true class by a logit of -1000; here it is left
      out, which is the same unless the wrong logits are as low.

    Example:
      >>> z = jnp.array([[1.0, 0.0, 0.0]])
      >>> print(losses.logit_constraint(z, jnp.array([0])))
      [1.]
    """
    _checks.check("logit_constraint", 2, logits, y=y)
    q = jax.nn.softmax(without(logits, y))
    return jnp.sum(q * jnp.maximum(pick(logits, y)[:, None] - logits, 0), axis=1)
