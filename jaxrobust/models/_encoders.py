"""Residual encoders that hand out c2 to c5, the levels of a feature pyramid."""

from collections.abc import Callable

import flax.linen as nn

from jaxrobust.models import _pool, _residual, layers
from jaxrobust.models.layers import Features

Denoise = Callable[[Features], Features]

ACTIVATIONS = {"elu": nn.elu, "relu": nn.relu}
LEVELS = ("c2", "c3", "c4", "c5")
# Channels of one group in the first stage of a ResNeXt (Xie et al., 32x4d).
GROUP_WIDTH = 4


class Encoder(layers.DeepModule):
    """Bottleneck ResNet or ResNeXt of four stages: images to `{'c2': ..., 'c5': ...}`.

    Attributes:
      layers: blocks of each stage.
      width: channels of the stem; stage k has 4 x width x 2^(k-1).
      stem: `imagenet`, 7x7 convolution of stride 2 and max pool (c2 is a quarter of the
        image), or `cifar`, 3x3 convolution (c2 has the size of the image).
      activation: `elu` or `relu`.
      cardinality: groups of a ResNeXt block; 1 is ResNet. As released, the first 1x1
        convolution of a block is grouped too.
      torch_init: torch's initial kernels; else N(0, sqrt(2 / (k k out))).
    """

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    stem: str = "imagenet"
    activation: str = "elu"
    cardinality: int = 1
    torch_init: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(width=self.width, cardinality=self.cardinality)
        if not isinstance(self.layers, tuple | list) or len(self.layers) != 4:
            raise ValueError(
                "`layers` must be four numbers of blocks, such as (3, 4, 6, 3), got "
                f"{self.layers!r}."
            )
        for number in self.layers:
            layers.check_sizes(layers=number)
        if self.width % self.cardinality:
            raise ValueError(
                f"`cardinality` must divide `width`, got {self.cardinality} groups of "
                f"{self.width} channels."
            )
        for name, value, known in (
            ("stem", self.stem, ("imagenet", "cifar")),
            ("activation", self.activation, tuple(ACTIVATIONS)),
        ):
            if value not in known:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(known)}, got {value!r}."
                )

    @nn.compact
    def __call__(
        self, x: Features, *, train: bool = False, denoise: Denoise | None = None
    ) -> dict[str, Features]:
        """Returns the results of the four stages, before any denoising.

        Args:
          x: images `[B, H, W, C]`.
          train: use the statistics of the batch.
          denoise: applied to the results of the stem and of stage 1 on their way on.
        """
        denoise = denoise or (lambda x: x)
        init = None if self.torch_init else _residual.HE_FAN_OUT
        common = {"kernel_init": init, **self.computing}
        activation = ACTIVATIONS[self.activation]
        kernel, strides = (7, 2) if self.stem == "imagenet" else (3, 1)
        stem = _residual.ConvNorm(self.width, kernel, strides, name="stem", **common)
        x = activation(stem(x, train=train))
        if self.stem == "imagenet":
            x = _pool.max_pool(x, 3, 2, 1)
        x = denoise(x)
        levels = {}
        for k, (level, blocks) in enumerate(zip(LEVELS, self.layers, strict=True), 1):
            features = self.width * 2 ** (k - 1)
            for n in range(blocks):
                block = _residual.ResidualBlock(
                    features,
                    strides=2 if k > 1 and n == 0 else 1,
                    bottleneck=True,
                    activation=activation,
                    groups=self.cardinality,
                    inner=self._inner(features),
                    name=f"stage{k}_block{n}",
                    **common,
                )
                x = self.run(block, x, train=train)
            levels[level] = x
            if k == 1:
                x = denoise(x)
        return levels

    def _inner(self, features: int) -> int:
        """Returns the channels inside a block of that many features."""
        if self.cardinality == 1:
            return features
        return self.cardinality * GROUP_WIDTH * features // self.width
