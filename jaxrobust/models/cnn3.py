"""The CNN of three convolutions for MNIST of the PC loss.

Li et al., "Improving Adversarial Robustness via Probabilistically Compact Loss with
Logit Constraints", AAAI 2021, arXiv 2012.07688, as in its released code.
"""

import flax.linen as nn
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _pool, layers
from jaxrobust.models._outputs import Outputs

MIN_SIZE = 20


class CNN3(layers.Network):
    """Three 5x5 convolutions, two dense layers: images `[B, H, W, C]` to `Outputs`.

    Images have at least 20x20 pixels; the original takes 28 px. `features` holds
    `stage1/out` to `stage3/out` (after the convolution's ReLU and pool) and
    `penultimate`, `[B, 100]`.

    Attributes:
      width: channels of the first convolution; the others have two and four times it.
    """

    width: int = 16

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        del train  # nothing here depends on it
        x = self.normalized(images, MIN_SIZE)
        features: dict[str, Array] = {}
        for k in (1, 2, 3):
            x = nn.relu(self.convolve(x, self.width * 2 ** (k - 1), 5, f"conv{k}"))
            x = features[f"stage{k}/out"] = x if k == 1 else _pool.max_pool(x, 2)
        x = nn.relu(self.dense(layers.flatten(x), 100, "dense1"))
        return self.classified(x, features)
