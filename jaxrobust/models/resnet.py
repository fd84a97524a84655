"""ResNet in its ImageNet form, with torchvision's structure and names.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385;
a bottleneck's stride is on its 3x3 convolution, as in torchvision.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _residual, layers
from jaxrobust.models._outputs import Outputs

# Blocks per stage.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK_DEPTH = 50  # from here on
STEMS = ("imagenet", "cifar")


class ResNet(layers.DeepNetwork):
    """ResNet-18, 34, 50 or 101: images `[B, H, W, C]` to `Outputs`.

    `features` holds `stage1/out` to `stage4/out` and `penultimate` (pooled, `[B, 512]`,
    `[B, 2048]` from depth 50 on).

    Attributes:
      depth: 18, 34, or, with bottlenecks, 50, 101.
      stem: `imagenet`, 7x7 convolution of stride 2 and max pool, for 224 px (SSC-DM
        uses it at 32 and 64 px too); `cifar`, 3x3 convolution, for 32 px.
      width: channels of the first stage's 3x3 convolutions.
    """

    depth: int = 18
    stem: str = "imagenet"
    num_classes: int = 10
    width: int = 64

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        if self.depth not in DEPTHS:
            raise ValueError(f"`depth` must be 18, 34, 50 or 101, got {self.depth!r}.")
        if self.stem not in STEMS:
            raise ValueError(
                f"`stem` must be 'imagenet' (224 px) or 'cifar' (32 px), got "
                f"{self.stem!r}."
            )

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images)
        x = _residual.run_stem(self, x, self.stem, self.width, nn.relu, train=train)
        features: dict[str, Array] = {}
        for k, blocks in enumerate(DEPTHS[self.depth], 1):
            make = functools.partial(
                _residual.ResidualBlock,
                self.width * 2 ** (k - 1),
                bottleneck=self.depth >= BOTTLENECK_DEPTH,
                **self.computing,
            )
            x = self.run_stage(x, k, blocks, make, train=train)
            features[f"stage{k}/out"] = x
        return self.classified(jnp.mean(x, (1, 2)), self.num_classes, features)
