"""ConvNeXt, in timm's form.

Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv 2201.03545; the stems of
convolutions are those of Singh, Croce and Hein, "Revisiting Adversarial Training for
ImageNet", NeurIPS 2023, arXiv 2303.01870.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._transformer import ZEROS, ConvStem, TransformerPart
from jaxrobust.models._variants import MeanSparse
from jaxrobust.models.layers import Features

STEMS = ("patch", "conv2", "conv3")
LEAST = 32  # pixels: the stem and three merges halve a side five times
LAYER_SCALE = 1e-6


class ConvNeXtBlock(TransformerPart):
    """7x7 convolution per channel, LayerNorm, two dense layers, plus the input.

    Attributes:
      mean_sparse: before GELU and before the input is added, see `WideResNet`.
    """

    mean_sparse: bool = False

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to the same shape."""
        del train
        channels = x.shape[-1]
        h = self.convolve(x, channels, 7, "conv", padding=3, groups=channels)
        h = self.mlp(self.layer_norm(h, "norm"), self.mean_sparse)
        h = self.scaled(h, "gamma", LAYER_SCALE)
        return x + (MeanSparse(name="sparse")(h) if self.mean_sparse else h)


class ConvNeXt(layers.DeepNetwork, TransformerPart):
    """ConvNeXt-T, S, B, L ...: images `[B, H, W, C]` to `Outputs`.

    `features` holds `stage1/out` to `stage4/out` and `penultimate` (pooled and
    normalised, `[B, 8 width]`).

    Attributes:
      layers: blocks of the four stages: (3, 3, 9, 3) for T, (3, 3, 27, 3) for larger.
      width: channels of the first stage: 96 for T and S, 128 for B, 192 for L.
      stem: `patch`, one 4x4 convolution of stride 4; `conv2` and `conv3`, so many 3x3
        convolutions (Singh et al., for T and S, and for B and L).
      mean_sparse: features near their mean become the mean (MeanSparse).
    """

    layers: tuple[int, ...] = (3, 3, 9, 3)
    width: int = 96
    stem: str = "patch"
    mean_sparse: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_one_of("stem", self.stem, STEMS)
        check_stages(self.layers)
        if self.width % 4 and self.stem != "patch":
            raise ValueError(f"`width` must be a multiple of 4, got {self.width}.")

    def _start(self, x: Features) -> Features:
        width = self.width
        if self.stem == "patch":
            x = self.convolve(x, width, 4, "stem", strides=4)
            return self.layer_norm(x, "stem_norm")
        channels, strides = (width // 2, width), (2, 2)
        if self.stem == "conv3":
            channels, strides = (width // 2, width * 3 // 4, width), (2, 2, 1)
        return ConvStem(channels, strides, name="stem", computing=self.computing)(x)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self._start(self.normalized(images, LEAST))
        features = {}
        for k, blocks in enumerate(self.layers, 1):
            if k > 1:
                x = self.layer_norm(x, f"merge{k}_norm")
                channels = self.width * 2 ** (k - 1)
                x = self.convolve(x, channels, 2, f"merge{k}", strides=2)
            for n in range(blocks):
                fields = {"name": f"stage{k}_block{n}", "computing": self.computing}
                block = ConvNeXtBlock(self.mean_sparse, **fields)
                x = layers.run_block(block, x, train=train, remat=self.computing.remat)
            features[f"stage{k}/out"] = x
        x = self.layer_norm(jnp.mean(x, (1, 2)), "head_norm")
        return self.classified(x, features, bias_init=ZEROS)


def check_stages(blocks: tuple[int, ...]) -> None:
    """Raises ValueError unless these are the blocks of four stages."""
    if not isinstance(blocks, tuple) or len(blocks) != 4:
        raise ValueError(f"`layers` must be those of four stages, got {blocks!r}.")
    layers.check_sizes(**{f"layers[{k}]": n for k, n in enumerate(blocks)})
