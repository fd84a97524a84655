"""Convolution and dense layer; their biases are added in float32 or wider.

In bfloat16 the gradient of a bias, a sum over batch and positions, stalls once it is
256 times its terms: 100,000 ones may add up to 8,192. All else is as in Flax.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

from jaxrobust.models._conv import conv_general_dilated

DType = Any
Initializer = Callable[..., Array]
Features = Float[Array, "B H W C"]


def add_bias(x: Array, bias: Float[Array, " C"]) -> Array:
    """Returns x `[..., C]` + bias in the dtype of x, added in float32 or wider."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    expanded = bias.astype(wide).reshape((1,) * (x.ndim - 1) + (-1,))
    return (x.astype(wide) + expanded).astype(x.dtype)


class Conv(nn.Module):
    """Square convolution; parameters `kernel` [k, k, C / groups, features] and `bias`.

    Attributes:
      features: channels of the result.
      kernel: side of the kernel.
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias; None for no bias.
      strides: of both axes.
      padding: zeros before and after both axes.
      groups: of channels that do not meet.
      dtype: to compute in; by default that of input and kernel together.
      loop_safe: gradients that stay fast in CPU loops but have no forward mode.
    """

    features: int
    kernel: int
    kernel_init: Initializer
    bias_init: Initializer | None
    strides: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    dtype: DType = None
    loop_safe: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Maps `[B, H, W, C]` to `[B, H', W', features]`."""
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        convolve = conv_general_dilated if self.loop_safe else lax.conv_general_dilated
        out = convolve(
            x,
            kernel,
            (self.strides, self.strides),
            [self.padding] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        if self.bias_init is None:
            return out
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        return add_bias(out, bias)


class Dense(nn.Module):
    """Dense layer; parameters `kernel` [D, features] and `bias`.

    Attributes:
      features: size of the result.
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias.
      dtype: to compute in; by default that of input and kernel together.
    """

    features: int
    kernel_init: Initializer
    bias_init: Initializer
    dtype: DType = None

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B features"]:
        """Maps `[B, D]` to `[B, features]`."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return add_bias(x @ kernel, bias)
