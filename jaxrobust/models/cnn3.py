"""The CNN of three convolutions for MNIST of the PC loss.

Li et al., "Improving Adversarial Robustness via Probabilistically Compact Loss with
Logit Constraints", AAAI 2021, arXiv 2012.07688, as in its released code.
"""

import flax.linen as nn
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _head, _pool, layers
from jaxrobust.models._outputs import Outputs

MIN_SIZE = 20


class CNN3(layers.Module):
    """Three 5x5 convolutions, two dense layers: images `[B, H, W, C]` to `Outputs`.

    Images have at least 20x20 pixels; the original takes 28 px. `features` holds
    `stage1/out` to `stage3/out` (after the convolution's ReLU and pool) and
    `penultimate`, `[B, 100]`.

    Attributes:
      num_classes: number of classes K.
      width: channels of the first convolution; the others have two and four times it.
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
    """

    num_classes: int = 10
    width: int = 16
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(num_classes=self.num_classes, width=self.width)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        del train  # nothing here depends on it
        _head.check_image_size(images, MIN_SIZE, "CNN3")
        x = layers.normalize(images, self.mean, self.std)
        features: dict[str, Array] = {}
        for k in (1, 2, 3):
            conv = layers.make_conv(
                x.shape[-1],
                self.width * 2 ** (k - 1),
                5,
                **self.computing,
                name=f"conv{k}",
            )
            x = nn.relu(conv(x))
            x = features[f"stage{k}/out"] = x if k == 1 else _pool.max_pool(x, 2)
        x = nn.relu(_head.dense(_head.flatten(x), 100, "dense1", self.dtype))
        features["penultimate"] = x
        logits = _head.dense(x, self.num_classes, "classifier", self.dtype)
        return Outputs(layers.as_logits(logits), features, None)
