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
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrobust import losses, threat
from jaxrobust.array_types import Bounds, Images, Labels, Logits, LogitsFn, Norm, Scalar

Forward = Callable[[Images], Logits]
Gradient = Callable[[Images, Labels], tuple[Images, Logits]]


class GradientHealth(NamedTuple):
    """Per image whether its gradient is all 0, if it is finite, and its L2 norm."""

    zero: Bool[Array, "B"]
    finite: Bool[Array, "B"]
    length: Float[Array, "B"]


class AscentPath(NamedTuple):
    """What steepest steps met: T steps go through T + 1 points.

    Attributes:
      correct: whether N images are classified as labelled at each point, as
        `is_correct` says.
      zero: whether the gradient was zero at the first T of them.
    """

    correct: Bool[np.ndarray, "T1 N"]
    zero: Bool[np.ndarray, "T N"]

    def resists(self, steps: int | None = None) -> Bool[np.ndarray, "N"]:
        """Says which images no point of the first `steps` steps (all) fools."""
        last = len(self.correct) if steps is None else steps + 1
        return np.asarray(self.correct[:last].all(0))


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
      odds: take the log-odds in place of the cross-entropy: see `logits.log_odds`.
        They have the same direction, but no logits round their gradient away.
    """

    def loss(images: Images) -> tuple[Array, Logits]:
        logits = losses.comparable(logits_fn(images))
        own = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
        rest = jnp.where(own, -jnp.inf, logits)
        ahead = jax.nn.logsumexp(rest, -1) - jnp.sum(jnp.where(own, logits, 0), -1)
        usual = losses.cross_entropy(scale * logits, y)
        return jnp.sum(jnp.where(odds, ahead, usual)), logits

    return jax.grad(loss, has_aux=True)(x)


@jax.jit
def gradient_health(gradient: Images) -> GradientHealth:
    """Looks at gradients `[B, H, W, C]`, one per image."""
    flat = gradient.reshape(len(gradient), -1)
    length = jnp.sqrt(jnp.sum(jnp.square(flat), -1))
    return GradientHealth((flat == 0).all(-1), jnp.isfinite(flat).all(-1), length)


def among_others(
    forward: Forward, x: Images, bounds: Bounds
) -> Float[np.ndarray, "N K"]:
    """Returns logits of the same images in batches of another composition.

    Every second image is replaced by its negative and all rows move by one place; a
    second batch does the same with the other half. A network that treats each image
    by itself gives the logits of `forward(x)`; one with batch statistics does not. Of a
    single image nothing is told.
    """
    images = np.asarray(x)
    even = np.arange(len(images)) % 2 == 0
    negative = np.asarray(bounds[0] + bounds[1] - images, images.dtype)

    def with_rows(kept: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "N K"]:
        batch = np.where(kept[:, None, None, None], images, negative)
        return np.roll(forward(jnp.asarray(np.roll(batch, 1, axis=0))), -1, axis=0)

    return np.where(even[:, None], with_rows(even), with_rows(~even))


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


def ascend(
    forward: Forward,
    gradient: Gradient,
    x: Images,
    y: Labels,
    *,
    start: Images,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
) -> AscentPath:
    """Climbs the cross-entropy (PGD, Madry et al. 2018) and looks at every point.

    Step by step from the host, so that one compiled gradient serves every radius, any
    number of steps and every restart, and an image counts as fooled if any point on
    the way fools it. One gradient per step, one forward pass at the end; in L1, where
    steps need not reach even the optimum of a linear loss, one more per step for the
    vertex of ball and box that the gradient points to.

    Args:
      forward: images to logits.
      gradient: as `input_gradient`, of as many images as `x` has.
      x: images `[N, H, W, C]`, the middle of the balls.
      y: labels `[N]`.
      start: where to begin, in ball and box.
      eps: radius of the ball in `norm`.
      step_size: length of a step, likewise.
      steps: T, at least 1.
      norm: 'linf', 'l2' or 'l1'.
      bounds: lowest and highest value of an image.
    """
    points, correct, zero = start, [], []
    vertices = np.ones(len(y), bool)
    for _ in range(steps):
        grad, logits = gradient(points, y)
        correct.append(np.asarray(is_correct(logits, y)) & vertices)
        zero.append(np.asarray(gradient_health(grad).zero))
        points = step_in_ball(points, grad, x, step_size, eps, norm=norm, bounds=bounds)
        if norm == "l1":
            vertex = step_in_ball(x, grad, x, eps, eps, norm=norm, bounds=bounds)
            vertices = np.asarray(is_correct(forward(vertex), y))
    correct.append(np.asarray(is_correct(forward(points), y)) & vertices)
    return AscentPath(np.stack(correct), np.stack(zero))


@jax.jit
def is_correct(logits: Logits, y: Labels) -> Bool[Array, "B"]:
    """Whether images are classified as labelled, `[B]`.

    Logits that are not finite are no prediction: argmax of NaN would be class 0, and
    count as a success of the attack.
    """
    return (jnp.argmax(logits, -1) == y) | ~jnp.isfinite(logits).all(-1)
