"""AlexNet, as SSC-DM uses it on CIFAR-10: torchvision's.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
arXiv 1404.5997.
"""

import flax.linen as nn
import jax
from jaxtyping import Array

from jaxrobust._checks import check_images
from jaxrobust.array_types import Images
from jaxrobust.models import _pool, layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models.layers import Features

# Channels over `width`, kernel, stride, padding and whether a 3x3 max pool follows.
CONVOLUTIONS = (
    (1, 11, 4, 2, True),
    (3, 5, 1, 2, True),
    (6, 3, 1, 1, False),
    (4, 3, 1, 1, False),
    (4, 3, 1, 1, True),
)
MIN_SIZE = 63
CELLS = 6  # side of the features before the dense layers


class AlexNet(layers.Network):
    """Five convolutions, three dense layers: images `[B, H, W, C]` to `Outputs`.

    The convolutions take no image below 63x63 pixels: the third max pool would have
    no window (SSC-DM's release, which feeds CIFAR-10 at 32 px, stops there with an
    error). Smaller images are therefore enlarged first, inside the network, so that
    attacks still act on the pixels of the data set. `features` holds `convolutions`
    (`[B, 6, 6, 256]`) and `penultimate`, `[B, 4096]`.

    Attributes:
      width: channels of the first convolution; the dense layers have 64 times it.
      resize: images with a side below 63 pixels are enlarged to this side,
        bilinearly; None refuses them.
      dropout: rate before the dense layers, where a `dropout` key is given in train
        mode.
    """

    width: int = 64
    resize: int | None = 64
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        if self.resize is not None:
            layers.check_sizes(resize=self.resize)
            if self.resize < MIN_SIZE:
                raise ValueError(
                    f"`resize` must be at least {MIN_SIZE} or None, got {self.resize}."
                )

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(self._enlarged(images))
        for n, (factor, kernel, strides, padding, pools) in enumerate(CONVOLUTIONS, 1):
            options = {"strides": strides, "padding": padding}
            x = self.convolve(x, self.width * factor, kernel, f"conv{n}", **options)
            x = nn.relu(x)
            x = _pool.max_pool(x, 3, 2) if pools else x
        x = _pool.adaptive_avg_pool(x, CELLS)
        features: dict[str, Array] = {"convolutions": x}
        x = layers.flatten(x)
        for name in ("dense1", "dense2"):
            x = layers.dropout(self, x, self.dropout, train)
            x = nn.relu(self.dense(x, 64 * self.width, name))
        return self.classified(x, features)

    def _enlarged(self, images: Images) -> Features:
        check_images(
            images,
            "images",
            least=MIN_SIZE if self.resize is None else 1,
            who="AlexNet",
            hint=": set `resize` to enlarge them inside the network",
        )
        if self.resize is None or min(images.shape[1:3]) >= MIN_SIZE:
            return images
        shape = (images.shape[0], self.resize, self.resize, images.shape[-1])
        return jax.image.resize(images, shape, "linear")
