"""Wide ResNet for 32 px images.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146, in the
form that TRADES (Zhang et al., ICML 2019) and RobustBench use; with swish and
TensorFlow's padding that of Gowal et al. 2020, arXiv 2010.03593.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _head, layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._residual import HE_FAN_OUT
from jaxrobust.models.preact_resnet import PreActBlock


class WideResNet(layers.DeepNetwork):
    """WRN-depth-width: images `[B, H, W, C]` to `Outputs`.

    Attributes:
      depth: 6n + 4, n blocks in each of three stages.
      width: factor of the channels 16, 32, 64.
      dropout: rate inside blocks.
      activation: `relu` or `swish`.
      same_padding: strided 3x3 convolutions pad as TensorFlow does, only after the
        image. Weights of DeepMind's networks need it, and have their own names
        (`convert.from_torch`).
    """

    depth: int = 28
    width: int = 10
    num_classes: int = 10
    dropout: float = 0.0
    activation: str = "relu"
    same_padding: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(depth=self.depth)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(
                f"`depth` must be 6n + 4 (10, 16, 22, 28, 34 ...), got {self.depth}."
            )
        layers.check_activation(self.activation)
        _head.check_rate(self.dropout)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images)
        options = {"padding": 1, "use_bias": False, "kernel_init": HE_FAN_OUT}
        x = self.convolve(x, 16, 3, "stem", **options)
        features: dict[str, Array] = {}
        for k in (1, 2, 3):
            make = functools.partial(
                PreActBlock,
                16 * self.width * 2 ** (k - 1),
                kernel_init=HE_FAN_OUT,
                dropout=self.dropout,
                activation=self.activation,
                same_padding=self.same_padding,
                **self.computing,
            )
            x = self.run_stage(x, k, (self.depth - 4) // 6, make, train=train)
            features[f"stage{k}/out"] = x
        x = self.batch_norm(x, "head_norm", train=train)
        x = jnp.mean(layers.ACTIVATIONS[self.activation](x), (1, 2))
        zeros = nn.initializers.zeros
        return self.classified(x, self.num_classes, features, bias_init=zeros)
