"""Vision transformer, in timm's form; DeiT without a distillation token is the same.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929;
Touvron et al., "Training data-efficient image transformers", ICML 2021, arXiv
2012.12877.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._transformer import (
    SMALL_NORMAL,
    ZEROS,
    ConvStem,
    Tokens,
    TransformerPart,
    attend,
    check_heads,
    join_heads,
    split_heads,
)
from jaxrobust.models._variants import widened

PATCH = 16
STEMS = ("patch", "conv")
STEM_CHANNELS = (48, 96, 192, 384)


class ViTBlock(TransformerPart):
    """Attention and two dense layers, each after LayerNorm and plus its input.

    Attributes:
      heads: of the attention.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Tokens, *, train: bool = False) -> Tokens:
        """Maps `[B, N, D]` to the same shape."""
        del train
        width = x.shape[-1]
        h = self.linear(self.layer_norm(x, "norm1"), 3 * width, "qkv")
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(h, 3, -1))
        x = x + self.linear(join_heads(attend(q, k, v)), width, "proj")
        return x + self.mlp(self.layer_norm(x, "norm2"))


class ViT(layers.DeepNetwork, TransformerPart):
    """ViT or DeiT, S or B: images `[B, H, W, C]` to `Outputs`.

    Sides are multiples of 16 pixels; the position embeddings are for the size that it
    was initialised with. `features` holds `penultimate`, the class token.

    Attributes:
      blocks: of attention.
      width: channels: 384 for S, 768 for B.
      heads: 6 for S, 12 for B.
      stem: `patch`, one 16x16 convolution; `conv`, four 3x3 convolutions of stride 2
        (Singh et al. 2023, arXiv 2303.01870).
    """

    blocks: int = 12
    width: int = 384
    heads: int = 6
    stem: str = "patch"

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_one_of("stem", self.stem, STEMS)
        check_heads(self.width, self.heads)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images, PATCH)
        check_sides(images, PATCH, type(self).__name__)
        if self.stem == "patch":
            x = self.convolve(x, self.width, PATCH, "stem", strides=PATCH)
        else:
            fields = {"name": "stem", "computing": self.computing}
            x = ConvStem(STEM_CHANNELS, (2, 2, 2, 2), self.width, **fields)(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = self.param("cls_token", SMALL_NORMAL, (1, 1, self.width), jnp.float32)
        x = with_token(x, token)
        places = self.param("pos_embed", SMALL_NORMAL, (1, *x.shape[1:]), jnp.float32)
        x = (widened(x) + places).astype(x.dtype)
        for n in range(self.blocks):
            block = ViTBlock(self.heads, name=f"block{n}", computing=self.computing)
            x = layers.run_block(block, x, train=train, remat=self.computing.remat)
        x = self.layer_norm(x[:, 0], "head_norm")
        return self.classified(x, {}, bias_init=ZEROS)


def with_token(x: Tokens, token: Tokens) -> Tokens:
    """Puts the class token `[1, 1, D]` before the tokens of each image."""
    first = jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1]))
    return jnp.concatenate([first.astype(x.dtype), x], 1)


def check_sides(images: Images, unit: int, who: str) -> None:
    """Raises ValueError unless the sides of images are multiples of `unit` pixels."""
    height, width = images.shape[1:3]
    if height % unit or width % unit:
        raise ValueError(
            f"{who} needs images whose sides are multiples of {unit} pixels, got "
            f"{height}x{width}."
        )
