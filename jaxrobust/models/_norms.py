"""Batch and group normalisation as torch's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.models._linear import DType, Features, Initializer

NORMS = ("b", "g", "l", "i")


class BatchNorm(nn.Module):
    """Batch normalisation as torch's: the running variance is unbiased.

    In train mode statistics are over the whole (global) batch, in float32 or wider.

    Attributes:
      momentum: torch's, the weight of the new batch.
      epsilon: added to the variance.
      dtype: of the result; by default that of input and parameters together.
      scale_init: initialiser of the scale.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DType = None
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
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        out_dtype = self.dtype or jnp.result_type(x, scale)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if not train:
            out = _affine(x, mean.value, var.value, scale, bias, self.epsilon)
            return out.astype(out_dtype)
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

    @nn.compact
    def __call__(
        self, x: Features, *, train: bool = False, updates: int = 1
    ) -> Features:
        """Normalises each image alone; `train` and `updates` do not matter."""
        del train, updates
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
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
