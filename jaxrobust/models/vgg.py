"""VGG with BatchNorm for 32 px (CIFAR) and 64 px (TinyImageNet).

Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, arXiv 1409.1556,
in the form of the PC loss (Li et al., AAAI 2021, arXiv 2012.07688): dropout, a dense
layer of 512 and the classifier after the convolutions.
"""

import flax.linen as nn
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _pool, layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models.layers import Features

# Convolutions per stage; each stage ends with a 2x2 max pool.
DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
FACTORS = (1, 2, 4, 8, 8)  # channels of a stage over those of the first
MIN_SIZE = 32


class VGG(layers.DeepNetwork):
    """VGG-11, 13, 16 or 19: images `[B, H, W, C]` to `Outputs`.

    Images have at least 32x32 pixels. What is left after the five pools is flattened:
    512 values at 32 px, 2048 at 64 px, to which the first dense layer adapts (the
    original has one file for each). `features` holds `stage1/out` to `stage5/out` and
    `penultimate`, `[B, 512]`.

    Attributes:
      depth: 11, 13, 16 or 19.
      width: channels of the first stage; the dense layer has eight times it.
      dropout: rate before the dense layer, where a `dropout` key is given in train
        mode.
    """

    depth: int = 16
    width: int = 64
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_one_of("depth", self.depth, DEPTHS)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images, MIN_SIZE)
        features: dict[str, Array] = {}
        # `k` and `train` say what is computed: they are no arrays to differentiate.
        stage = (
            nn.remat(_stage, static_argnums=(2, 3)) if self.computing.remat else _stage
        )
        for k in range(1, len(FACTORS) + 1):
            x = features[f"stage{k}/out"] = stage(self, x, k, train)
        x = layers.dropout(self, layers.flatten(x), self.dropout, train)
        x = nn.relu(self.dense(x, 8 * self.width, "dense1"))
        return self.classified(x, features)


def _stage(network: VGG, x: Features, k: int, train: bool) -> Features:
    """Runs the convolutions of stage `k`, from 1, and its pool."""
    for n in range(1, DEPTHS[network.depth][k - 1] + 1):
        width = network.width * FACTORS[k - 1]
        x = network.convolve(x, width, 3, f"stage{k}_conv{n}", padding=1)
        x = nn.relu(network.batch_norm(x, f"stage{k}_norm{n}", train=train))
    return _pool.max_pool(x, 2)
