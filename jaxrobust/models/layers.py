"""Layers that the networks share: convolution, norms, normalisation, pooling."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.array_types import Key
from jaxrobust.models._conv import conv_general_dilated as conv_general_dilated
from jaxrobust.models._images import check_images as check_images
from jaxrobust.models._images import normalize as normalize
from jaxrobust.models._linear import Conv as Conv
from jaxrobust.models._linear import Dense as Dense
from jaxrobust.models._linear import DType as DType
from jaxrobust.models._linear import Features as Features
from jaxrobust.models._linear import Initializer as Initializer
from jaxrobust.models._linear import add_bias as add_bias

NORMS = ("b", "g", "l", "i")
# Of networks whose originals have both.
ACTIVATIONS = {"relu": nn.relu, "swish": nn.swish}


class Module(nn.Module, kw_only=True):
    """A Linen module with fields for how it computes, which all networks share.

    Attributes:
      dtype: to compute in, such as `bfloat16`; by default that of input and parameters
        together. Parameters, statistics and logits stay float32.
      loop_safe: convolutions whose gradients stay fast in CPU loops; they have no
        forward mode, which False allows.
    """

    dtype: DType = None
    loop_safe: bool = True

    @property
    def computing(self) -> dict[str, Any]:
        """These fields, for the layers and blocks inside."""
        return {"dtype": self.dtype, "loop_safe": self.loop_safe}


class DeepModule(Module, kw_only=True):
    """A module of blocks.

    Attributes:
      remat: compute blocks again in the backward pass, which keeps their inputs only
        and costs one more forward pass of each. Parameters and results are the same.
    """

    remat: bool = False

    def run(self, block: nn.Module, x: Features, *, train: bool) -> Features:
        """Returns `block(x, train=train)`; call inside a compact method.

        Args:
          block: a submodule.
          x: features `[B, H, W, C]`.
          train: mode.
        """
        return run_block(block, x, train=train, remat=self.remat)


class BatchNorm(nn.Module):
    """Batch normalisation as torch's: the running variance is unbiased.

    In train mode statistics are over the whole (global) batch, in float32 or wider.

    Attributes:
      momentum: torch's, the weight of the new batch.
      epsilon: added to the variance.
      dtype: of the result; by default that of input and parameters together.
      param_dtype: of scale, bias and running statistics.
      scale_init: initialiser of the scale.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DType = None
    param_dtype: DType = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: Features, *, train: bool = False, updates: int = 1
    ) -> Features:
        """Normalises over all axes but the last.

        Args:
          x: features `[B, ..., C]`.
          train: use (and fold into the running ones) the statistics of this batch.
          updates: how often this batch moves the running statistics, for a network
            whose original evaluates the same input several times.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)
        out_dtype = self.dtype or jnp.result_type(x, scale)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if not train:
            return _affine(x, mean.value, var.value, scale, bias, self.epsilon).astype(
                out_dtype
            )
        axes = tuple(range(x.ndim - 1))
        batch_mean = jnp.mean(x, axes)
        # In two passes: E[x^2] - E[x]^2 loses its digits where the mean is large.
        batch_var = jnp.mean(jnp.square(x - _expand(batch_mean, x)), axes)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            count = x.size // x.shape[-1]
            # n moves towards one value are one longer move.
            weight = 1 - (1 - self.momentum) ** updates
            # torch normalises by the biased variance and keeps the unbiased one.
            unbiased = batch_var * (count / max(count - 1, 1))
            mean.value = _move(mean.value, batch_mean, weight)
            var.value = _move(var.value, unbiased, weight)
        out = _affine(x, batch_mean, batch_var, scale, bias, self.epsilon)
        return out.astype(out_dtype)


def _expand(vector: Array, like: Array) -> Array:
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


def _move(old: Array, new: Array, weight: float) -> Array:
    return ((1 - weight) * old + weight * new).astype(old.dtype)


def _affine(x: Array, mean: Array, var: Array, scale: Array, bias: Array, eps: float):
    dtype = jnp.result_type(x, scale)
    factor = scale.astype(dtype) * jax.lax.rsqrt(var.astype(dtype) + eps)
    shifted = x.astype(dtype) - _expand(mean.astype(dtype), x)
    return shifted * _expand(factor, x) + _expand(bias.astype(dtype), x)


class GroupNorm(nn.Module):
    """Group normalisation, with the call signature of `BatchNorm`."""

    groups: int
    epsilon: float = 1e-5
    dtype: DType = None
    param_dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, x: Features, *, train: bool = False, updates: int = 1
    ) -> Features:
        """Normalises each image alone; `train` and `updates` do not matter."""
        del train, updates
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        out_dtype = self.dtype or jnp.result_type(x, scale)
        x = x.astype(jnp.promote_types(out_dtype, jnp.float32))
        grouped = x.reshape(*x.shape[:-1], self.groups, -1)
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean = jnp.mean(grouped, axes, keepdims=True)
        var = jnp.mean(jnp.square(grouped - mean), axes, keepdims=True)
        normed = (grouped - mean) * jax.lax.rsqrt(var + self.epsilon)
        out = normed.reshape(x.shape) * _expand(scale, x) + _expand(bias, x)
        return out.astype(out_dtype)


def make_norm(
    kind: str,
    channels: int,
    *,
    name: str | None = None,
    dtype: DType = None,
    scale_init: Initializer = nn.initializers.ones,
) -> nn.Module:
    """Makes a norm of the kinds that sspnet has.

    Args:
      kind: `b` BatchNorm, `g` GroupNorm of min(32, channels) groups, `l` of one group,
        `i` of one group per channel.
      channels: number of channels C.
      name: of the submodule.
      dtype: of the result.
      scale_init: of BatchNorm's scale; the others start at 1.

    Raises:
      ValueError: for another kind, or channels that the groups do not divide.
    """
    check_norm(kind)
    if kind == "b":
        return BatchNorm(dtype=dtype, scale_init=scale_init, name=name)
    groups = {"g": min(32, channels), "l": 1, "i": channels}[kind]
    if channels % groups:
        raise ValueError(
            f"norm 'g' needs a number of channels divisible by {groups}, "
            f"got {channels}; change the width."
        )
    return GroupNorm(groups, dtype=dtype, name=name)


def check_norm(kind: object) -> None:
    """Raises ValueError unless `kind` is one of `NORMS`."""
    if kind not in NORMS:
        raise ValueError(
            f"unknown norm {kind!r}; use 'b' (batch), 'g' (group), 'l' (layer) or "
            "'i' (instance)."
        )


def check_activation(name: object) -> None:
    """Raises ValueError unless `name` is one of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"`activation` must be 'relu' or 'swish', got {name!r}.")


def as_logits(x: Float[Array, "B K"]) -> Float[Array, "B K"]:
    """Widens to at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def torch_uniform(fan_in: int, slope: float = math.sqrt(5)) -> Initializer:
    """Kaiming-uniform of leaky-ReLU slope: U(+-sqrt(6 / ((1 + slope^2) fan_in)))."""
    bound = math.sqrt(6 / ((1 + slope**2) * fan_in))

    def init(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def unit_uniform(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
    """U(0, 1), sspnet's start of BatchNorm scales."""
    return jax.random.uniform(key, shape, dtype)


def scaled(init: Initializer, factor: float) -> Initializer:
    """Returns an initialiser `factor` times as large."""
    return lambda key, shape, dtype=jnp.float32: factor * init(key, shape, dtype)


def make_conv(
    channels_in: int,
    features: int,
    kernel: int,
    *,
    strides: int = 1,
    padding: int | tuple[int, int] = 0,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    groups: int = 1,
    dtype: DType = None,
    loop_safe: bool = True,
    name: str | None = None,
) -> Conv:
    """Makes a square convolution with torch's initial values.

    Args:
      channels_in: channels of the input, for the initial values.
      features: channels of the result.
      kernel: side of the kernel.
      strides: of both axes.
      padding: zeros on each side, or before and after both axes.
      use_bias: add a bias, from U(+-1/sqrt(fan_in)).
      kernel_init: by default torch's, U(+-1/sqrt(fan_in)).
      groups: of channels that do not meet.
      dtype: to compute in; by default that of input and parameters together.
      loop_safe: gradients that stay fast in CPU loops but have no forward mode.
      name: of the submodule.
    """
    fan_in = kernel * kernel * channels_in // groups
    return Conv(
        features,
        kernel,
        kernel_init or torch_uniform(fan_in),
        torch_uniform(fan_in) if use_bias else None,
        strides,
        (padding, padding) if isinstance(padding, int) else padding,
        groups,
        dtype,
        loop_safe,
        name=name,
    )


def make_dense(
    channels_in: int,
    features: int,
    *,
    slope: float = math.sqrt(5),
    bias_init: Initializer | None = None,
    dtype: DType = None,
    name: str | None = None,
) -> Dense:
    """Makes a dense layer with torch's initial values.

    Args:
      channels_in: size of the input, for the initial values.
      features: size of the result.
      slope: leaky-ReLU slope of the Kaiming-uniform weights.
      bias_init: by default torch's, U(+-1/sqrt(channels_in)).
      dtype: to compute in; by default that of input and parameters together.
      name: of the submodule.
    """
    return Dense(
        features,
        torch_uniform(channels_in, slope),
        bias_init or torch_uniform(channels_in),
        dtype,
        name=name,
    )


def run_block(
    block: nn.Module, x: Features, *, train: bool, remat: bool = False
) -> Features:
    """Returns `block(x, train=train)`; call inside a module's compact method.

    Args:
      block: a submodule.
      x: features `[B, H, W, C]`.
      train: mode.
      remat: keep only `x` for the backward pass and compute the block again there,
        which costs one more forward pass of it. Parameters and results are the same.
    """

    def run(block: Any, x: Features) -> Features:
        return block(x, train=train)

    return (nn.remat(run) if remat else run)(block, x)


def same_padding(kernel: int, strides: int) -> tuple[int, int]:
    """Returns TensorFlow's `SAME` of an odd kernel and a side that `strides` divides.

    A 3x3 kernel that moves by 2 gets its one row of zeros after the image.
    """
    total = max(kernel - strides, 0)
    return total // 2, total - total // 2


def check_sizes(**sizes: object) -> None:
    """Raises ValueError, naming the argument, unless all are integers above 0."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be an integer of at least 1, got {value!r}."
            )
