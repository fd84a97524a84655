"""GradAlign: how far the gradient turns between two points of the ball."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import _checks
from jaxrobust.array_types import Images, PerExample


def misalignment(grad: Images, grad_other: Images) -> PerExample:
    """Misalignment of two input gradients of an image: 0 where they point alike.

        1 - <g, h> / (||g|| ||h||)

    Where it is small the loss is nearly linear in the ball, and one step of FGSM is
    nearly as good as many.

    Args:
      grad: g `[B, ...]`, at one point of each ball.
      grad_other: h, at another one.

    Returns:
      `[B]`, in [0, 2]; 0 where a gradient is zero and has no direction (the release
      leaves such images out of the mean).

    Raises:
      TypeError: for arrays that are not floating.
      ValueError: for shapes that differ.

    Reference:
      Andriushchenko and Flammarion, Understanding and improving fast adversarial
      training, NeurIPS 2020 (arXiv 2007.02617), equation 4.

    Example:
      >>> g, h = jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 3.0]])
      >>> print(losses.misalignment(g, h))
      [0.293]
    """
    for name, array in (("grad", grad), ("grad_other", grad_other)):
        must = f"`{name}` must be a floating array [B, ...]"
        _checks.check_kind(array, jnp.floating, must)
    if grad.shape != grad_other.shape:
        raise ValueError(
            f"`grad_other` must have the shape of `grad`, {grad.shape}, got "
            f"{grad_other.shape}."
        )
    g, h = _scaled(grad), _scaled(grad_other)
    squares = jnp.sum(g * g, axis=1) * jnp.sum(h * h, axis=1)
    known = squares > 0
    # The inner `where` keeps the gradient finite where there is no direction.
    lengths = jnp.sqrt(jnp.where(known, squares, 1))
    return jnp.where(known, 1 - jnp.sum(g * h, axis=1) / lengths, 0)


def _scaled(grad: Images) -> Float[Array, "B d"]:
    """The gradients as rows of largest value 1: squares neither overflow nor vanish."""
    rows = grad.reshape(grad.shape[0], -1)
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True, initial=0)
    # No part of what is differentiated: the angle does not change with the scale.
    largest = jax.lax.stop_gradient(largest)
    return rows / jnp.where(largest > 0, largest, 1)
