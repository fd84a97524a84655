"""Swin transformer, in timm's form.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
ICCV 2021, arXiv 2103.14030.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._transformer import (
    SMALL_NORMAL,
    ZEROS,
    TransformerPart,
    attend,
    check_heads,
    join_heads,
    split_heads,
)
from jaxrobust.models._variants import MeanSparse
from jaxrobust.models.convnext import check_stages
from jaxrobust.models.layers import Features
from jaxrobust.models.vit import check_sides

PATCH = 4
UNIT = 32  # pixels: patches of 4, halved three times
_FAR = -100.0  # added to the scores of what a shift brought together


class SwinBlock(TransformerPart):
    """Attention in windows and two dense layers, each plus its input.

    Attributes:
      heads: of the attention.
      window: side of the windows.
      shifted: windows start in the middle of others.
      epsilon: of the LayerNorms.
      mean_sparse: before GELU, after the dense layers and both sums, see `WideResNet`.
    """

    heads: int
    window: int
    shifted: bool
    epsilon: float
    mean_sparse: bool = False

    def _sparse(self, x: Features, name: str) -> Features:
        return MeanSparse(name=name)(x) if self.mean_sparse else x

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, D]` to the same shape."""
        del train
        height, width = x.shape[1:3]
        window = min(self.window, height, width)
        # One window that holds all is not shifted.
        shift = window // 2 if self.shifted and min(height, width) > window else 0
        if height % window or width % window:
            raise ValueError(
                f"Swin needs a multiple of {window} patches on each side (`window`), "
                f"and a stage has {height}x{width}: its images have the wrong size in "
                "pixels."
            )
        h = self.layer_norm(x, "norm1", self.epsilon)
        h = jnp.roll(h, (-shift, -shift), (1, 2))
        h = self._attention(_windows(h, window), _mask(height, width, window, shift))
        h = _joined(h, height, width, window)
        x = self._sparse(x + jnp.roll(h, (shift, shift), (1, 2)), "sparse1")
        h = self.mlp(self.layer_norm(x, "norm2", self.epsilon), self.mean_sparse)
        return self._sparse(x + self._sparse(h, "mlp_sparse_end"), "sparse2")

    def _attention(self, x: Array, mask: np.ndarray | None) -> Array:
        """Attends inside windows `[B, windows, N, D]`."""
        channels, side = x.shape[-1], 2 * round(x.shape[2] ** 0.5) - 1
        h = self.linear(x, 3 * channels, "qkv")
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(h, 3, -1))
        shape = (side * side, self.heads)
        table = self.param("position_bias", SMALL_NORMAL, shape, jnp.float32)
        bias = jnp.moveaxis(table[_offsets((side + 1) // 2)], -1, 0)[None, None]
        if mask is not None:
            bias = bias + mask[None, :, None]
        return self.linear(join_heads(attend(q, k, v, bias)), channels, "proj")


class Swin(layers.DeepNetwork, TransformerPart):
    """Swin-T, B, L: images `[B, H, W, C]` to `Outputs`.

    Sides are multiples of 32 pixels that windows fill. `features` holds `stage1/out` to
    `stage4/out` and `penultimate` (normalised and pooled, `[B, 8 width]`).

    Attributes:
      layers: blocks of the four stages: (2, 2, 6, 2) for T, (2, 2, 18, 2) for larger.
      width: channels of the first stage: 96 for T, 128 for B, 192 for L.
      head_size: channels of a head.
      window: side of the windows, in patches of 4 pixels.
      epsilon: of the LayerNorms; SimMIM's and MIMIR's code has 1e-6.
      mean_sparse: features near their mean become the mean (MeanSparse).
    """

    layers: tuple[int, ...] = (2, 2, 6, 2)
    width: int = 96
    head_size: int = 32
    window: int = 7
    epsilon: float = 1e-5
    mean_sparse: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        check_stages(self.layers)
        check_heads(self.width, self.head_size, "head_size")
        layers.check_sizes(window=self.window)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images, UNIT)
        check_sides(images, UNIT, type(self).__name__)
        x = self.convolve(x, self.width, PATCH, "stem", strides=PATCH)
        x = self.layer_norm(x, "stem_norm", self.epsilon)
        features = {}
        for k, blocks in enumerate(self.layers, 1):
            if k > 1:
                x = _merged(x)
                x = self.layer_norm(x, f"merge{k}_norm", self.epsilon)
                x = self.linear(x, x.shape[-1] // 2, f"merge{k}", use_bias=False)
            heads = x.shape[-1] // self.head_size
            for n in range(blocks):
                sizes = heads, self.window, bool(n % 2), self.epsilon
                fields = {"name": f"stage{k}_block{n}", "computing": self.computing}
                block = SwinBlock(*sizes, self.mean_sparse, **fields)
                x = layers.run_block(block, x, train=train, remat=self.computing.remat)
            features[f"stage{k}/out"] = x
        x = jnp.mean(self.layer_norm(x, "head_norm", self.epsilon), (1, 2))
        return self.classified(x, features, bias_init=ZEROS)


def _windows(x: Features, side: int) -> Array:
    """Cuts `[B, H, W, D]` into windows `[B, windows, side * side, D]`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, side * side, channels)


def _joined(x: Array, height: int, width: int, side: int) -> Features:
    """Puts windows together again."""
    x = x.reshape(x.shape[0], height // side, width // side, side, side, -1)
    return x.swapaxes(2, 3).reshape(x.shape[0], height, width, -1)


def _merged(x: Features) -> Features:
    """Puts four neighbours' channels together, column by column."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = x.transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def _offsets(side: int) -> np.ndarray:
    """Returns where in the table the bias of two places in a window is."""
    place = np.stack(np.divmod(np.arange(side * side), side))
    row, column = place[:, :, None] - place[:, None] + side - 1
    return row * (2 * side - 1) + column


def _mask(height: int, width: int, side: int, shift: int) -> np.ndarray | None:
    """Returns `[windows, N, N]`: what to add for places that are no neighbours."""
    if not shift:
        return None

    def regions(length: int) -> np.ndarray:
        place = np.arange(length)
        return (place >= length - side).astype(int) + (place >= length - shift)

    region = 3 * regions(height)[:, None] + regions(width)
    windows = np.asarray(_windows_of(region, side))
    apart = windows[:, :, None] != windows[:, None]
    return np.where(apart, np.float32(_FAR), np.float32(0))


def _windows_of(region: np.ndarray, side: int) -> np.ndarray:
    height, width = region.shape
    cut = region.reshape(height // side, side, width // side, side)
    return cut.swapaxes(1, 2).reshape(-1, side * side)
