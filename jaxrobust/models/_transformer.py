"""What ConvNeXt and the vision transformers share: timm's parts, in evaluation mode.

Stochastic depth and dropout, which only training uses, are left out.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.models import layers
from jaxrobust.models._norms import LayerNorm
from jaxrobust.models._variants import MeanSparse, widened
from jaxrobust.models.layers import Features

Tokens = Float[Array, "B N D"]
Heads = Float[Array, "*B H N D"]

SMALL_NORMAL = nn.initializers.truncated_normal(0.02)
ZEROS = nn.initializers.zeros
MLP_FACTOR = 4


def gelu(x: Array) -> Array:
    """The exact one, as torch's default."""
    return nn.gelu(widened(x), approximate=False).astype(x.dtype)


class TransformerPart(layers.Module):
    """A module with the calls that all parts here make."""

    def layer_norm(self, x: Array, name: str, epsilon: float = 1e-6) -> Array:
        """Normalises over the last axis."""
        return LayerNorm(epsilon, computing=self.computing, name=name)(x)

    def linear(self, x: Array, features: int, name: str, use_bias: bool = True) -> Any:
        """Applies a dense layer to the last axis."""
        fields = {
            "kernel_init": SMALL_NORMAL,
            "bias_init": ZEROS,
            "computing": self.computing,
        }
        return layers.Dense(features, use_bias=use_bias, name=name, **fields)(x)

    def mlp(self, x: Array, mean_sparse: bool = False) -> Array:
        """Two dense layers with GELU between them, four times as wide inside."""
        hidden = self.linear(x, MLP_FACTOR * x.shape[-1], "mlp_fc1")
        hidden = MeanSparse(name="mlp_sparse")(hidden) if mean_sparse else hidden
        return self.linear(gelu(hidden), x.shape[-1], "mlp_fc2")

    def scaled(self, x: Array, name: str, start: float = 1.0) -> Array:
        """Multiplies channels by numbers that are learnt (layer scale)."""
        shape = x.shape[-1:]
        scale = self.param(name, nn.initializers.constant(start), shape, jnp.float32)
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
        return (widened(x) * scale).astype(x.dtype)


def attend(q: Heads, k: Heads, v: Heads, bias: Array | None = None) -> Heads:
    """Attention of all to all: softmax(q k / sqrt(D) + bias) v, softmax in float32."""
    scores = jnp.einsum("...qd,...kd->...qk", q, k) / math.sqrt(q.shape[-1])
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = jax.nn.softmax(scores if bias is None else scores + bias, axis=-1)
    return jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v)


def split_heads(x: Array, heads: int) -> Heads:
    """Returns tokens `[..., N, H D]` as `[..., H, N, D]`."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def join_heads(x: Heads) -> Array:
    """Returns `[..., H, N, D]` as tokens `[..., N, H D]`."""
    x = jnp.moveaxis(x, -3, -2)
    return x.reshape(*x.shape[:-2], -1)


class ConvStem(TransformerPart):
    """3x3 convolutions, each with LayerNorm and GELU (Singh et al. 2023).

    Attributes:
      channels: of each convolution.
      strides: of each convolution.
      project: channels of a last 1x1 convolution, 0 for none.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    project: int = 0

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Maps `[B, H, W, C]` to `[B, H / s, W / s, channels]`."""
        for n, (features, s) in enumerate(
            zip(self.channels, self.strides, strict=True), 1
        ):
            x = self.convolve(x, features, 3, f"conv{n}", strides=s, padding=1)
            x = gelu(self.layer_norm(x, f"norm{n}"))
        return self.convolve(x, self.project, 1, "project") if self.project else x


def check_heads(width: int, heads: int, name: str = "heads") -> None:
    """Raises ValueError unless heads share the channels without rest."""
    layers.check_sizes(**{name: heads})
    if width % heads:
        raise ValueError(
            f"`width` must be a multiple of `{name}`, got {width} and {heads}."
        )
