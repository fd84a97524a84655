"""Convolution and dense layer, which start as torch's do.

Biases are added in float32 or wider: in bfloat16 the gradient of a bias, a sum over
batch and positions, stalls once it is 256 times its terms: 100,000 ones may add up to
8,192. All else is as in Flax.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

from jaxrobust._conv import Features, Kernel, conv_general_dilated
from jaxrobust.array_types import Key
from jaxrobust.models._computing import AS_USUAL, Computing, DType

Initializer = Callable[..., Array]


def torch_uniform(fan_in: int = 0, slope: float = math.sqrt(5)) -> Initializer:
    """Kaiming-uniform of leaky-ReLU slope: U(+-sqrt(6 / ((1 + slope^2) fan_in))).

    By default `fan_in` is read off a kernel `[..., in, out]`; a bias has its kernel's.
    The default slope, torch's, makes it U(+-1/sqrt(fan_in)).
    """

    def init(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        bound = math.sqrt(6 / ((1 + slope**2) * (fan_in or math.prod(shape[:-1]))))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def add_bias(x: Array, bias: Float[Array, " C"]) -> Array:
    """Returns x `[..., C]` + bias in the dtype of x, added in float32 or wider."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    expanded = bias.astype(wide).reshape((1,) * (x.ndim - 1) + (-1,))
    return (x.astype(wide) + expanded).astype(x.dtype)


def convolution(
    x: Features,
    kernel: Kernel,
    strides: int,
    padding: tuple[int, int],
    groups: int,
    loop_safe: bool,
) -> Features:
    """Convolves squares: strides and padding (before, after) are those of both axes."""
    convolve = conv_general_dilated if loop_safe else lax.conv_general_dilated
    return convolve(
        x,
        kernel,
        (strides, strides),
        [padding] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


class Conv(nn.Module):
    """Square convolution; parameters `kernel` [k, k, C / groups, features] and `bias`.

    Attributes:
      features: channels of the result.
      kernel: side of the kernel.
      strides: of both axes.
      padding: zeros on each side, or before and after both axes.
      use_bias: add a bias.
      kernel_init: initialiser of the kernel; None is torch's, `torch_uniform`.
      groups: of channels that do not meet.
      computing: how to compute.
    """

    features: int
    kernel: int
    strides: int = 1
    padding: int | tuple[int, int] = 0
    use_bias: bool = True
    kernel_init: Initializer | None = None
    groups: int = 1
    computing: Computing = AS_USUAL

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Maps `[B, H, W, C]` to `[B, H', W', features]`."""
        pads = self.padding
        pads = (pads, pads) if isinstance(pads, int) else pads
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        init = self.kernel_init or torch_uniform()
        # Kept in float32, whatever is computed in: small updates would be rounded away.
        kernel = self.param("kernel", init, shape, jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.computing.dtype)
        safe = self.computing.loop_safe
        out = convolution(x, kernel, self.strides, pads, self.groups, safe)
        if not self.use_bias:
            return out
        init = torch_uniform(math.prod(shape[:-1]))
        return add_bias(out, self.param("bias", init, shape[-1:], jnp.float32))


class Dense(nn.Module):
    """Dense layer; parameters `kernel` [D, features] and `bias`.

    Attributes:
      features: size of the result.
      use_bias: add a bias.
      kernel_init: initialiser of the kernel; None is torch's, `torch_uniform`.
      bias_init: of the bias, likewise.
      computing: how to compute.
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    computing: Computing = AS_USUAL

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B features"]:
        """Maps `[B, D]` to `[B, features]`, or more axes than B alike."""
        shape, torch = (x.shape[-1], self.features), torch_uniform(x.shape[-1])
        kernel = self.param("kernel", self.kernel_init or torch, shape, jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.computing.dtype)
        if not self.use_bias:
            return x @ kernel
        bias = self.param("bias", self.bias_init or torch, shape[1:], jnp.float32)
        return add_bias(x @ kernel, bias)
