"""Signs of masked gradients, as numbers: what an attack would not tell by itself.

Athalye et al. 2018 (arXiv 1802.00420, section 3.1) and Carlini et al. 2019 (arXiv
1902.06705, section 3) list the symptoms. `evaluation.diagnose` runs all of these on a
network; `evaluation.flags` says which numbers are warnings.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrobust import losses, threat
from jaxrobust.analysis.logits import log_odds
from jaxrobust.array_types import Bounds, Images, Labels, Logits, LogitsFn, Norm, Scalar

Forward = Callable[[Images], Logits]
Gradient = Callable[[Images, Labels], tuple[Images, Logits]]


class GradientHealth(NamedTuple):
    """Per image whether its gradient is all 0, if it is finite, and its L2 norm."""

    zero: Bool[Array, "B"]
    finite: Bool[Array, "B"]
    length: Float[Array, "B"]


def input_gradient(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    scale: Scalar = 1.0,
    odds: Scalar = False,
) -> tuple[Images, Logits]:
    """Returns the input gradient of the cross-entropy, and the logits `[B, K]`.

    The loss is summed over the batch, so a row's gradient is its own.

    Args:
      logits_fn: images to logits.
      x: images `[B, H, W, C]`.
      y: labels `[B]`.
      scale: of the logits in the loss: where they are large, its gradient is nothing
        but rounding (Carlini and Wagner 2016, arXiv 1607.04311, on distillation).
      odds: take the log-odds in place of the cross-entropy: see `log_odds`.
        They have the same direction, but no logits round their gradient away.
    """

    def loss(images: Images) -> tuple[Array, Logits]:
        logits = losses.comparable(logits_fn(images))
        usual = losses.cross_entropy(scale * logits, y)
        return jnp.sum(jnp.where(odds, log_odds(logits, y), usual)), logits

    return jax.grad(loss, has_aux=True)(x)


@jax.jit
def gradient_health(gradient: Images) -> GradientHealth:
    """Looks at gradients `[B, H, W, C]`, one per image."""
    flat = gradient.reshape(len(gradient), -1)
    length = jnp.sqrt(jnp.sum(jnp.square(flat), -1))
    return GradientHealth((flat == 0).all(-1), jnp.isfinite(flat).all(-1), length)


@functools.partial(jax.jit, static_argnames=("norm", "bounds"))
def step_in_ball(
    x_adv: Images,
    gradient: Images,
    x: Images,
    step_size: Scalar,
    eps: Scalar,
    *,
    norm: Norm,
    bounds: Bounds,
) -> Images:
    """Takes one steepest step, back into the ball around `x` and the box."""
    moved = threat.steepest_step(
        x_adv, gradient, step_size=step_size, norm=norm, bounds=bounds
    )
    return threat.project(moved, x, eps=eps, norm=norm, bounds=bounds)


@jax.jit
def is_correct(logits: Logits, y: Labels) -> Bool[Array, "B"]:
    """Whether images are classified as labelled, `[B]`.

    Logits that are not finite are no prediction: argmax of NaN would be class 0, and
    count as a success of the attack.
    """
    return (jnp.argmax(logits, -1) == y) | ~jnp.isfinite(logits).all(-1)
