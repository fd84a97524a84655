"""Batch and group normalisation as torch's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust._conv import Features
from jaxrobust.models._computing import AS_USUAL, Computing
from jaxrobust.models._linear import Initializer

NORMS = ("b", "g", "l", "i")
# As in torch: the weight of a new batch, and what is added to a variance.
MOMENTUM, EPSILON = 0.1, 1e-5


class BatchNorm(nn.Module):
    """Batch normalisation as torch's: the running variance is unbiased.

    In train mode statistics are over the whole (global) batch, in float32 or wider.

    Attributes:
      computing: how to; its dtype is the result's.
      scale_init: initialiser of the scale.
    """

    computing: Computing = AS_USUAL
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: Features, *, train: bool = False, updates: int = 1
    ) -> Features:
        """Normalises over all axes but the last.

        With `train` by the statistics of this batch, which move the running ones
        `updates` times, for a network whose original evaluates an input more often.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        out_dtype = self.computing.dtype or jnp.result_type(x, scale)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        used_mean, used_var = mean.value, var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            used_mean = jnp.mean(x, axes)
            # In two passes: E[x^2] - E[x]^2 loses its digits where the mean is large.
            used_var = jnp.mean(jnp.square(x - _expand(used_mean, x)), axes)
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                count = x.size // x.shape[-1]
                # n moves towards one value are one longer move.
                weight = 1 - (1 - MOMENTUM) ** updates
                # torch normalises by the biased variance and keeps the unbiased one.
                unbiased = used_var * (count / max(count - 1, 1))
                mean.value = _move(mean.value, used_mean, weight)
                var.value = _move(var.value, unbiased, weight)
        dtype = jnp.result_type(x, scale)
        # Scale and deviation make one factor per channel: one product less per value.
        factor = scale.astype(dtype) * jax.lax.rsqrt(used_var.astype(dtype) + EPSILON)
        shifted = x.astype(dtype) - _expand(used_mean.astype(dtype), x)
        out = shifted * _expand(factor, x) + _expand(bias.astype(dtype), x)
        return out.astype(out_dtype)


def _expand(vector: Array, like: Array) -> Array:
    """Gives a vector of channels the rank of features: ranks are promoted nowhere."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


def _move(old: Array, new: Array, weight: float) -> Array:
    return ((1 - weight) * old + weight * new).astype(old.dtype)


class GroupNorm(nn.Module):
    """Group normalisation, called as `BatchNorm` is.

    Attributes:
      kind: `g`, min(32, C) groups of channels; `l`, one; `i`, one per channel.
      computing: how to; its dtype is the result's.
    """

    kind: str
    computing: Computing = AS_USUAL

    @nn.compact
    def __call__(
        self, x: Features, *, train: bool = False, updates: int = 1
    ) -> Features:
        """Normalises each image alone; `train` and `updates` do not matter."""
        del train, updates
        channels = x.shape[-1]
        groups = {"g": min(32, channels), "l": 1, "i": channels}[self.kind]
        if channels % groups:
            raise ValueError(
                f"norm 'g' needs a number of channels divisible by {groups}, "
                f"got {channels}; change the width."
            )
        shape = (channels,)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        out_dtype = self.computing.dtype or jnp.result_type(x, scale)
        x = x.astype(jnp.promote_types(out_dtype, jnp.float32))
        grouped = x.reshape(*x.shape[:-1], groups, -1)
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean = jnp.mean(grouped, axes, keepdims=True)
        var = jnp.mean(jnp.square(grouped - mean), axes, keepdims=True)
        normed = (grouped - mean) * jax.lax.rsqrt(var + EPSILON)
        out = normed.reshape(x.shape) * _expand(scale, x) + _expand(bias, x)
        return out.astype(out_dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, of each position alone.

    Attributes:
      epsilon: added to the variance.
      computing: how to; its dtype is the result's.
    """

    epsilon: float = 1e-6
    computing: Computing = AS_USUAL

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises `[..., C]`."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        out_dtype = self.computing.dtype or jnp.result_type(x, scale)
        x = x.astype(jnp.promote_types(out_dtype, jnp.float32))
        centred = x - jnp.mean(x, -1, keepdims=True)
        var = jnp.mean(jnp.square(centred), -1, keepdims=True)
        normed = centred * jax.lax.rsqrt(var + self.epsilon)
        return (normed * _expand(scale, x) + _expand(bias, x)).astype(out_dtype)


def check_norm(kind: object) -> None:
    """Raises ValueError unless `kind` is one of `NORMS`."""
    if kind not in NORMS:
        raise ValueError(
            f"unknown norm {kind!r}; use 'b' (batch), 'g' (group), 'l' (layer) or "
            "'i' (instance)."
        )
