"""ResNet in its ImageNet form, with torchvision's structure and names.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385;
a bottleneck's stride is on its 3x3 convolution, as in torchvision.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _pool, _residual, layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models.layers import Features

# Blocks per stage.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK_DEPTH = 50  # from here on
STEMS = ("imagenet", "cifar")


class ResNet(layers.DeepModule):
    """ResNet-18, 34, 50 or 101: images `[B, H, W, C]` to `Outputs`.

    `features` holds `stage1/out` to `stage4/out` and `penultimate` (pooled, `[B, 512]`,
    `[B, 2048]` from depth 50 on).

    Attributes:
      depth: 18, 34, or, with bottlenecks, 50, 101.
      stem: `imagenet`, 7x7 convolution of stride 2 and max pool, for 224 px (SSC-DM
        uses it at 32 and 64 px too); `cifar`, 3x3 convolution, for 32 px.
      num_classes: number of classes K.
      width: channels of the first stage's 3x3 convolutions.
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
    """

    depth: int = 18
    stem: str = "imagenet"
    num_classes: int = 10
    width: int = 64
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(num_classes=self.num_classes, width=self.width)
        if self.depth not in DEPTHS:
            raise ValueError(f"`depth` must be 18, 34, 50 or 101, got {self.depth!r}.")
        if self.stem not in STEMS:
            raise ValueError(
                f"`stem` must be 'imagenet' (224 px) or 'cifar' (32 px), got "
                f"{self.stem!r}."
            )

    def _stem(self, x: Features, train: bool) -> Features:
        kernel, strides = (7, 2) if self.stem == "imagenet" else (3, 1)
        layer = _residual.ConvNorm(
            self.width,
            kernel,
            strides,
            **self.computing,
            name="stem",
        )
        x = nn.relu(layer(x, train=train))
        return _pool.max_pool(x, 3, 2, 1) if self.stem == "imagenet" else x

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self._stem(layers.normalize(images, self.mean, self.std), train)
        features: dict[str, Array] = {}
        for k, blocks in enumerate(DEPTHS[self.depth], 1):
            for n in range(blocks):
                block = _residual.ResidualBlock(
                    self.width * 2 ** (k - 1),
                    strides=2 if k > 1 and n == 0 else 1,
                    bottleneck=self.depth >= BOTTLENECK_DEPTH,
                    **self.computing,
                    name=f"stage{k}_block{n}",
                )
                x = self.run(block, x, train=train)
            features[f"stage{k}/out"] = x
        x = features["penultimate"] = jnp.mean(x, (1, 2))
        dense = layers.make_dense(
            x.shape[-1], self.num_classes, dtype=self.dtype, name="classifier"
        )
        return Outputs(layers.as_logits(dense(x)), features, None)
