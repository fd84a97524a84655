"""The ResNets of He et al.: in torchvision's form, and for CIFAR-10.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._residual import HE_FAN_IN, ResidualBlock, run_stem, three_stages

# Blocks per stage.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK_DEPTH = 50  # from here on
STEMS = ("imagenet", "cifar")


class ResNet(layers.DeepNetwork):
    """ResNet-18, 34, 50 or 101: images `[B, H, W, C]` to `Outputs`.

    Structure and names are torchvision's: a bottleneck's stride is on its 3x3
    convolution. `features` holds `stage1/out` to `stage4/out` and `penultimate`
    (pooled, `[B, 512]`, `[B, 2048]` from depth 50 on).

    Attributes:
      depth: 18, 34, or, with bottlenecks, 50, 101.
      stem: `imagenet`, 7x7 convolution of stride 2 and max pool, for 224 px (SSC-DM
        uses it at 32 and 64 px too); `cifar`, 3x3 convolution, for 32 px.
      width: channels of the first stage's 3x3 convolutions.
      widening: factor of the channels inside bottlenecks: 2 for Wide ResNet-50-2
        (Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146, in torchvision's form).
    """

    depth: int = 18
    stem: str = "imagenet"
    width: int = 64
    widening: int = 1

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_one_of("depth", self.depth, DEPTHS)
        if self.stem not in STEMS:
            raise ValueError(
                f"`stem` must be 'imagenet' (224 px) or 'cifar' (32 px), got "
                f"{self.stem!r}."
            )
        layers.check_sizes(widening=self.widening)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images)
        x = run_stem(self, x, self.stem, self.width, nn.relu, train=train)
        depths, bottleneck = DEPTHS[self.depth], self.depth >= BOTTLENECK_DEPTH

        def block(features: int, **fields: Any) -> ResidualBlock:
            return ResidualBlock(features, inner=self.widening * features, **fields)

        x, features = self.run_stages(
            x, depths, block, self.width, bottleneck=bottleneck, train=train
        )
        return self.classified(jnp.mean(x, (1, 2)), features)


class ResNetCifar(layers.DeepNetwork):
    """ResNet-20, 32, 44, 56, 110 ...: images `[B, H, W, C]` to `Outputs`.

    Section 4.2, in the form of the PC loss (Li et al., AAAI 2021, arXiv 2012.07688).
    3x3 convolution, three stages of 3x3 blocks (strides 1, 2, 2), global average pool,
    dense. Where the shape changes the shortcut takes every other pixel and pads with
    zero channels (option A), without parameters. `features` holds `stage1/out` to
    `stage3/out` and `penultimate` (pooled, `[B, 64]`).

    Attributes:
      depth: 6n + 2, n blocks per stage.
      width: channels of the first stage.
    """

    depth: int = 20
    width: int = 16

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        three_stages(self.depth, 2)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        options: dict[str, Any] = {"kernel_init": HE_FAN_IN, "train": train}
        x = self.normalized(images)
        x = run_stem(self, x, "cifar", self.width, nn.relu, **options)
        depths, block = three_stages(self.depth, 2), ResidualBlock
        options["shortcut"] = "pad"
        x, features = self.run_stages(x, depths, block, self.width, **options)
        x = jnp.mean(x, (1, 2))
        return self.classified(x, features, kernel_init=HE_FAN_IN)
