"""What single published Wide ResNets have that others do not."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._computing import AS_USUAL, Computing
from jaxrobust.models._linear import torch_uniform
from jaxrobust.models.layers import Features

_SMALLEST = 1e-12  # length of a vector


class PSSiLU(nn.Module):
    """x (sigmoid(|a| x) - |b|) / (1 - |b|), with a and b learnt.

    Dai, Mahloujifar and Mittal, "Parameterizing Activation Functions for Adversarial
    Robustness", 2021, arXiv 2110.05626. There one pair is shared by the whole network;
    here every block has its own, which start as equal.
    """

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Maps `[..., C]` to the same shape."""
        ones, small = nn.initializers.ones, nn.initializers.constant(1e-8)
        learnt = (
            self.param("alpha", ones, (1,), jnp.float32),
            self.param("beta", small, (1,), jnp.float32),
        )
        a, b = (jnp.abs(v).reshape((1,) * x.ndim) for v in learnt)
        wide = widened(x)
        return (wide * (jax.nn.sigmoid(a * wide) - b) / (1 - b)).astype(x.dtype)


def activation(kind: str) -> Callable[[Features], Features]:
    """Returns `relu`, `swish` or `pssilu`; call inside a compact method, once."""
    return PSSiLU(name="activation") if kind == "pssilu" else getattr(nn, kind)


class MeanSparse(nn.Module):
    """Features within `threshold` deviations of their channel's mean become the mean.

    Amini et al., "MeanSparse: Post-Training Robustness Enhancement Through
    Mean-Centered Feature Sparsification", 2024, arXiv 2406.05927. Its numbers, found
    after training, are of `batch_stats` and stay as they are; a threshold of 0 changes
    nothing.
    """

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Maps `[..., C]` to the same shape."""
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.zeros, shape, jnp.float32)
        far = self.variable("batch_stats", "threshold", jnp.zeros, (), jnp.float32)
        centre, reach = (
            value.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
            for value in (mean.value, far.value * jnp.sqrt(var.value))
        )
        return jnp.where(jnp.abs(x - centre) < reach, centre, x)


class SqueezeExcite(layers.Module):
    """Multiplies channels by what two dense layers make of their means.

    Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507.

    Attributes:
      ratio: of channels between the layers, which ReLU follows; a sigmoid ends.
    """

    ratio: float

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Maps `[B, H, W, C]` to the same shape."""
        h = jnp.mean(x, (1, 2), keepdims=True)
        h = self.convolve(h, max(1, round(self.ratio * x.shape[-1])), 1, "squeeze")
        h = self.convolve(nn.relu(h), x.shape[-1], 1, "excite")
        return (widened(x) * jax.nn.sigmoid(widened(h))).astype(x.dtype)


class UnitDense(nn.Module):
    """Products of unit vectors with a matrix of unit columns, without bias.

    Pang et al., "Boosting Adversarial Training with Hypersphere Embedding", NeurIPS
    2020, arXiv 2002.08619.

    Attributes:
      features: size of the result.
      computing: how to compute.
    """

    features: int
    computing: Computing = AS_USUAL

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B features"]:
        """Maps unit vectors `[B, D]` to cosines `[B, features]`."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", torch_uniform(), shape, jnp.float32)
        return x @ unit(kernel, 0).astype(self.computing.dtype or x.dtype)


def widened(x: Array) -> Array:
    """Returns x in float32 or wider: sums of many gradients, and exp, need it."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def unit(x: Array, axis: int = -1) -> Array:
    """Divides vectors along an axis by their length, in float32 or wider."""
    wide = widened(x)
    square = jnp.square(wide).sum(axis, keepdims=True)
    # Not the square root of 0, whose gradient is infinite.
    length = jnp.sqrt(jnp.maximum(square, _SMALLEST**2))
    return (wide / length).astype(x.dtype)


def standardized(images: Images) -> Images:
    """Takes each image's mean away and divides by its deviation, or 1 / sqrt(n).

    As `tf.image.per_image_standardization`, with n - 1 in the variance.
    """
    axes = (1, 2, 3)
    count = images[0].size
    centred = images - jnp.mean(images, axes, keepdims=True)
    var = jnp.sum(jnp.square(centred), axes, keepdims=True) / max(count - 1, 1)
    # The larger of two deviations, without the root of 0.
    return centred / jnp.sqrt(jnp.maximum(var, 1 / count))
