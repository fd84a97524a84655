"""LeNet-5 for MNIST, as the PC loss (ReLU, max pool) and SSC-DM (sigmoid) use it.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, in the
forms of Li et al., AAAI 2021, arXiv 2012.07688, and of SSC-DM's release.
"""

import flax.linen as nn
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _pool, layers
from jaxrobust.models._outputs import Outputs

ACTIVATIONS = ("relu", "sigmoid")
POOLS = {"max": _pool.max_pool, "avg": _pool.avg_pool}
MIN_SIZE = 12


class LeNet(layers.Network):
    """Two 5x5 convolutions and three dense layers: images `[B, H, W, C]` to `Outputs`.

    Images have at least 12x12 pixels; the originals take 28 px. `features` holds
    `stage1/out` and `stage2/out` (after the pools) and `penultimate`, `[B, 84]`.

    Attributes:
      activation: `relu` (PC loss) or `sigmoid` (SSC-DM).
      pool: `max` (PC loss) or `avg` (SSC-DM), of 2x2 windows.
    """

    activation: str = "relu"
    pool: str = "max"

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_one_of("activation", self.activation, ACTIVATIONS)
        layers.check_one_of("pool", self.pool, POOLS)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        del train  # nothing here depends on it
        act, pool = getattr(nn, self.activation), POOLS[self.pool]
        x = self.normalized(images, MIN_SIZE)
        features: dict[str, Array] = {}
        for k, (channels, padding) in enumerate(((6, 2), (16, 0)), 1):
            x = act(self.convolve(x, channels, 5, f"conv{k}", padding=padding))
            x = features[f"stage{k}/out"] = pool(x, 2)
        x = act(self.dense(layers.flatten(x), 120, "dense1"))
        x = act(self.dense(x, 84, "dense2"))
        return self.classified(x, features)
