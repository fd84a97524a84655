"""LeNet-5 for MNIST, as the PC loss (ReLU, max pool) and SSC-DM (sigmoid) use it.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, in the
forms of Li et al., AAAI 2021, arXiv 2012.07688, and of SSC-DM's release.
"""

import flax.linen as nn
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import _head, _pool, layers
from jaxrobust.models._outputs import Outputs

ACTIVATIONS = {"relu": nn.relu, "sigmoid": nn.sigmoid}
POOLS = {"max": _pool.max_pool, "avg": _pool.avg_pool}
MIN_SIZE = 12


class LeNet(layers.Module):
    """Two 5x5 convolutions and three dense layers: images `[B, H, W, C]` to `Outputs`.

    Images have at least 12x12 pixels; the originals take 28 px. `features` holds
    `stage1/out` and `stage2/out` (after the pools) and `penultimate`, `[B, 84]`.

    Attributes:
      activation: `relu` (PC loss) or `sigmoid` (SSC-DM).
      pool: `max` (PC loss) or `avg` (SSC-DM), of 2x2 windows.
      num_classes: number of classes K.
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
    """

    activation: str = "relu"
    pool: str = "max"
    num_classes: int = 10
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(num_classes=self.num_classes)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be 'relu' or 'sigmoid', got {self.activation!r}."
            )
        if self.pool not in POOLS:
            raise ValueError(f"`pool` must be 'max' or 'avg', got {self.pool!r}.")

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        del train  # nothing here depends on it
        _head.check_image_size(images, MIN_SIZE, "LeNet")
        act, pool = ACTIVATIONS[self.activation], POOLS[self.pool]
        x = layers.normalize(images, self.mean, self.std)
        features: dict[str, Array] = {}
        for k, (channels, padding) in enumerate(((6, 2), (16, 0)), 1):
            conv = layers.make_conv(
                x.shape[-1],
                channels,
                5,
                padding=padding,
                **self.computing,
                name=f"conv{k}",
            )
            x = features[f"stage{k}/out"] = pool(act(conv(x)), 2)
        x = act(_head.dense(_head.flatten(x), 120, "dense1", self.dtype))
        x = features["penultimate"] = act(_head.dense(x, 84, "dense2", self.dtype))
        logits = _head.dense(x, self.num_classes, "classifier", self.dtype)
        return Outputs(layers.as_logits(logits), features, None)
