"""A dense layer with a bounded Lipschitz constant."""

import chex
import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

from jaxrobust.array_types import Scalar
from jaxrobust.models import layers
from jaxrobust.models._computing import AS_USUAL, Computing


def spectral_norm(kernel: Float[Array, "D K"], doublings: int = 8) -> Scalar:
    """Returns the largest singular value of a matrix, from below.

    By squaring the Gram matrix over and over, which is 2^doublings steps of power
    iteration; the singular vector is held constant in the gradient, as it may be.
    """
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    chex.assert_rank(wide, 2)
    fixed = lax.stop_gradient(wide)
    power = fixed.T @ fixed if fixed.shape[0] >= fixed.shape[1] else fixed @ fixed.T
    tiny = jnp.finfo(power.dtype).tiny
    for _ in range(doublings):
        # Scaled each time: squares of squares overflow.
        power = power / jnp.maximum(jnp.max(jnp.abs(power)), tiny)
        power = power @ power
    # By now every column is a multiple of the singular vector, or about 0.
    column = power[:, jnp.argmax(jnp.diagonal(power))]
    vector = column / jnp.maximum(jnp.max(jnp.abs(column)), tiny)
    vector = vector / jnp.maximum(jnp.sqrt(jnp.sum(vector**2)), tiny)
    # Only here does a gradient flow: d|W v| / dW at a fixed v is u v^T.
    image = wide @ vector if fixed.shape[0] >= fixed.shape[1] else wide.T @ vector
    square = jnp.sum(image**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


class Classifier(nn.Module):
    """Dense layer, its Lipschitz constant bounded on request, and tanh on request.

    Attributes:
      num_classes: number of classes K.
      squash: tanh on the logits, the release's constraint.
      spectral_bound: the kernel is scaled down to this spectral norm where it has a
        larger one; 0 leaves it alone.
      computing: how to compute.
    """

    num_classes: int
    squash: bool = True
    spectral_bound: float = 0.0
    computing: Computing = AS_USUAL

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B K"]:
        """Maps `[B, D]` to logits `[B, K]`."""
        init = layers.torch_uniform(x.shape[-1])
        shape = (x.shape[-1], self.num_classes)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", init, (self.num_classes,), jnp.float32)
        if self.spectral_bound:
            norm = jnp.maximum(spectral_norm(kernel), self.spectral_bound)
            kernel = kernel * (self.spectral_bound / norm).astype(kernel.dtype)
        x, kernel = promote_dtype(x, kernel, dtype=self.computing.dtype)
        logits = layers.add_bias(layers.as_logits(x @ kernel), bias)
        return jnp.tanh(logits) if self.squash else logits
