"""The ResNet of He et al. for CIFAR-10, with shortcuts that have no parameters.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385,
section 4.2, in the form of the PC loss (Li et al., AAAI 2021, arXiv 2012.07688).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _residual, layers
from jaxrobust.models._outputs import Outputs


class ResNetCifar(layers.DeepModule):
    """ResNet-20, 32, 44, 56, 110 ...: images `[B, H, W, C]` to `Outputs`.

    3x3 convolution, three stages of 3x3 blocks (strides 1, 2, 2), global average pool,
    dense. Where the shape changes the shortcut takes every other pixel and pads with
    zero channels (option A). `features` holds `stage1/out` to `stage3/out` and
    `penultimate` (pooled, `[B, 64]`).

    Attributes:
      depth: 6n + 2, n blocks per stage.
      num_classes: number of classes K.
      width: channels of the first stage.
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
    """

    depth: int = 20
    num_classes: int = 10
    width: int = 16
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(num_classes=self.num_classes, width=self.width)
        _residual.check_cifar_depth(self.depth)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = layers.normalize(images, self.mean, self.std)
        stem = _residual.ConvNorm(
            self.width,
            3,
            1,
            _residual.HE_FAN_IN,
            **self.computing,
            name="stem",
        )
        x = nn.relu(stem(x, train=train))
        features: dict[str, Array] = {}
        for k in (1, 2, 3):
            for n in range((self.depth - 2) // 6):
                block = _residual.ResidualBlock(
                    self.width * 2 ** (k - 1),
                    strides=2 if k > 1 and n == 0 else 1,
                    shortcut="pad",
                    kernel_init=_residual.HE_FAN_IN,
                    **self.computing,
                    name=f"stage{k}_block{n}",
                )
                x = self.run(block, x, train=train)
            features[f"stage{k}/out"] = x
        x = features["penultimate"] = jnp.mean(x, (1, 2))
        logits = self._classifier(x.shape[-1])(x)
        return Outputs(layers.as_logits(logits), features, None)

    def _classifier(self, channels: int) -> layers.Dense:
        return layers.Dense(
            self.num_classes,
            _residual.HE_FAN_IN,
            layers.torch_uniform(channels),
            self.dtype,
            name="classifier",
        )
