"""MACER: the class of noisy copies, and the radius that they certify."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from jaxrobust.array_types import Labels, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses._classes import pick, without


def macer(
    logits: Float[Array, "D B K"],
    y: Labels,
    sigma: Scalar = 0.25,
    weight: Scalar = 12.0,
    hinge: Scalar = 8.0,
    inverse_temperature: Scalar = 16.0,
) -> PerExample:
    """Cross-entropy of the mean prediction, and the certified radius where it is right.

        -log p_y + weight (sigma / 2) (hinge - r)        if q says y and |r| <= hinge
        -log p_y                                         else

        p = mean_d softmax z_d,   q = mean_d softmax(inverse_temperature z_d),
        r = Phi^-1(q_y) - Phi^-1(max_{j != y} q_j)

    sigma r / 2 is the L2 radius of randomised smoothing, made soft.

    Args:
      logits: z `[D, B, K]` of D copies of each image with noise of `sigma`.
      y: `[B]`, integers in [0, K).
      sigma: of the noise, in units of the images.
      weight: of the radius, lambda of the paper.
      hinge: gamma of the paper.
      inverse_temperature: beta of the paper.

    Returns:
      `[B]`, at least 0.

    Reference:
      Zhai et al., MACER, ICLR 2020 (arXiv 2001.02378), algorithm 1; rows whose radius
      is not finite count for nothing, as in the release.

    Example:
      >>> z = jnp.array([[[1.0, 0.9]], [[1.0, 1.02]]])
      >>> print(losses.macer(z, jnp.array([0])))
      [11.707]
    """
    given: dict[str, Any] = {
        "sigma": sigma,
        "weight": weight,
        "hinge": hinge,
        "inverse_temperature": inverse_temperature,
    }
    for name, value in given.items():
        _checks.check_number(name, value)
    if getattr(logits, "ndim", 0) != 3 or not len(logits):
        raise ValueError(
            "`logits` must have shape [D, B, K], of at least one copy, got "
            f"{jnp.shape(logits)}."
        )
    _checks.check("macer", 2, logits[0], y=y)
    log_p = jax.nn.logsumexp(jax.nn.log_softmax(logits), 0) - jnp.log(len(logits))
    q = jax.nn.softmax(inverse_temperature * logits).mean(0)
    own, other = pick(q, y), jnp.max(without(q, y), axis=1)
    # Where no radius is, its gradient must not be looked at.
    inside = (own > other) & (own < 1) & (other > 0)
    radius = ndtri(jnp.where(inside, own, 0.75)) - ndtri(jnp.where(inside, other, 0.25))
    counts = inside & (radius <= hinge)
    gain = jnp.where(counts, hinge - radius, 0)
    return -pick(log_p, y) + weight * sigma / 2 * gain
