"""XCiT, a transformer whose attention is between channels, in timm's form.

El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, arXiv
2106.09681; for 32 px as in Debenedetti, Sehwag and Mittal, "A Light Recipe to Train
Robust Vision Transformers", SaTML 2023, arXiv 2209.07399.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._residual import ConvNorm
from jaxrobust.models._transformer import (
    SMALL_NORMAL,
    ZEROS,
    Tokens,
    TransformerPart,
    attend,
    check_heads,
    gelu,
    join_heads,
    split_heads,
)
from jaxrobust.models._variants import unit, widened
from jaxrobust.models.layers import Features
from jaxrobust.models.vit import with_token

PATCHES = (16, 4)  # pixels: all four convolutions halve the sides, or the last two
CLASS_BLOCKS = 2
WAVES = 32  # of the positions, for each axis


class XCABlock(TransformerPart):
    """Attention between channels, 3x3 convolutions, two dense layers.

    Attributes:
      heads: of the attention.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, D]` to the same shape."""
        h = self._attention(self.layer_norm(x, "norm1"))
        x = x + self.scaled(h, "gamma1")
        fields: dict[str, Any] = {"padding": 1, "groups": x.shape[-1]}
        h = self.layer_norm(x, "norm3")
        h = gelu(self.convolve(h, x.shape[-1], 3, "local_conv1", **fields))
        h = self.batch_norm(h, "local_norm", train=train)
        h = self.convolve(h, x.shape[-1], 3, "local_conv2", **fields)
        x = x + self.scaled(h, "gamma3")
        return x + self.scaled(self.mlp(self.layer_norm(x, "norm2")), "gamma2")

    def _attention(self, x: Features) -> Features:
        width = x.shape[-1]
        h = self.linear(x.reshape(x.shape[0], -1, width), 3 * width, "qkv")
        # [B, heads, channels, tokens]
        q, k, v = (
            split_heads(part, self.heads).swapaxes(-1, -2)
            for part in jnp.split(h, 3, -1)
        )
        shape = (self.heads, 1, 1)
        heat = self.param("temperature", nn.initializers.ones, shape, jnp.float32)
        scores = jnp.einsum("bhct,bhdt->bhcd", unit(q), unit(k))
        wide = jnp.promote_types(scores.dtype, jnp.float32)
        weights = jax.nn.softmax(scores.astype(wide) * heat[None], axis=-1)
        h = jnp.einsum("bhcd,bhdt->bhct", weights.astype(v.dtype), v)
        h = join_heads(h.swapaxes(-1, -2))
        return self.linear(h, width, "proj").reshape(x.shape)


class ClassBlock(TransformerPart):
    """The class token looks at all tokens; two dense layers for it alone.

    Attributes:
      heads: of the attention.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Tokens, *, train: bool = False) -> Tokens:
        """Maps `[B, N, D]`, the class token first, to the same shape."""
        del train
        width = x.shape[-1]
        h = self.layer_norm(x, "norm1")
        q, k, v = (
            split_heads(self.linear(part, width, name), self.heads)
            for name, part in (("q", h[:, :1]), ("k", h), ("v", h))
        )
        token = self.linear(join_heads(attend(q, k, v)), width, "proj")
        h = jnp.concatenate([token, h[:, 1:]], 1)
        x = self.layer_norm(x + self.scaled(h, "gamma1"), "norm2")
        token = self.scaled(self.mlp(x[:, :1]), "gamma2")
        # Sic: the other tokens are added to themselves.
        return x + jnp.concatenate([token, x[:, 1:]], 1)


class XCiT(layers.DeepNetwork, TransformerPart):
    """XCiT-S12, M12, L12: images `[B, H, W, C]` to `Outputs`.

    `features` holds `penultimate`, the class token.

    Attributes:
      blocks: of attention between channels; two of class attention follow.
      width: channels: 384 for S, 512 for M, 768 for L.
      heads: 8 for S and M, 16 for L.
      patch: 16 pixels for ImageNet, 4 for 32 px.
    """

    blocks: int = 12
    width: int = 384
    heads: int = 8
    patch: int = 16

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_one_of("patch", self.patch, PATCHES)
        check_heads(self.width, self.heads)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images)
        for n in range(1, 5):
            strides = 1 if self.patch == 4 and n <= 2 else 2
            channels = max(1, self.width // 2 ** (4 - n))
            fields = {"name": f"stem{n}", "computing": self.computing}
            x = ConvNorm(channels, 3, strides, **fields)(x, train=train)
            x = gelu(x) if n < 4 else x
        waves = jnp.asarray(_waves(*x.shape[1:3]), x.dtype)[None]
        places = widened(self.convolve(waves, self.width, 1, "positions"))
        x = (widened(x) + places).astype(x.dtype)
        for n in range(self.blocks):
            block = XCABlock(self.heads, name=f"block{n}", computing=self.computing)
            x = layers.run_block(block, x, train=train, remat=self.computing.remat)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        token = self.param("cls_token", SMALL_NORMAL, (1, 1, self.width), jnp.float32)
        tokens = with_token(tokens, token)
        for n in range(CLASS_BLOCKS):
            block = ClassBlock(
                self.heads, name=f"class_block{n}", computing=self.computing
            )
            tokens = block(tokens, train=train)
        x = self.layer_norm(tokens, "head_norm")[:, 0]
        return self.classified(x, {}, bias_init=ZEROS)


def _waves(height: int, width: int) -> np.ndarray:
    """Returns sines and cosines of the places, `[H, W, 2 WAVES]`, rows first."""
    frequency = 10_000.0 ** -(2 * (np.arange(WAVES) // 2) / WAVES)

    def along(length: int) -> np.ndarray:
        place = np.arange(1, length + 1) / (length + 1e-6) * 2 * math.pi
        angle = place[:, None] * frequency
        angle[:, 0::2], angle[:, 1::2] = np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])
        return angle

    rows = np.broadcast_to(along(height)[:, None], (height, width, WAVES))
    columns = np.broadcast_to(along(width)[None], (height, width, WAVES))
    return np.concatenate([rows, columns], -1)
