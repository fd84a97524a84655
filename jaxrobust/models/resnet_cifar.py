"""The ResNet of He et al. for CIFAR-10, with shortcuts that have no parameters.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385,
section 4.2, in the form of the PC loss (Li et al., AAAI 2021, arXiv 2012.07688).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _residual, layers
from jaxrobust.models._outputs import Outputs


class ResNetCifar(layers.DeepNetwork):
    """ResNet-20, 32, 44, 56, 110 ...: images `[B, H, W, C]` to `Outputs`.

    3x3 convolution, three stages of 3x3 blocks (strides 1, 2, 2), global average pool,
    dense. Where the shape changes the shortcut takes every other pixel and pads with
    zero channels (option A). `features` holds `stage1/out` to `stage3/out` and
    `penultimate` (pooled, `[B, 64]`).

    Attributes:
      depth: 6n + 2, n blocks per stage.
      width: channels of the first stage.
    """

    depth: int = 20
    num_classes: int = 10
    width: int = 16

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        _residual.check_cifar_depth(self.depth)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        common = {"kernel_init": _residual.HE_FAN_IN, **self.computing}
        x = _residual.ConvNorm(self.width, 3, name="stem", **common)(
            self.normalized(images), train=train
        )
        x = nn.relu(x)
        features: dict[str, Array] = {}
        for k in (1, 2, 3):
            make = functools.partial(
                _residual.ResidualBlock,
                self.width * 2 ** (k - 1),
                shortcut="pad",
                **common,
            )
            x = self.run_stage(x, k, (self.depth - 2) // 6, make, train=train)
            features[f"stage{k}/out"] = x
        pooled = jnp.mean(x, (1, 2))
        init = _residual.HE_FAN_IN
        return self.classified(pooled, self.num_classes, features, kernel_init=init)
