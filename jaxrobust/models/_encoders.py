"""Residual encoders that hand out c2 to c5, the levels of a feature pyramid."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxrobust._checks import check_choice
from jaxrobust.models import layers
from jaxrobust.models._residual import HE_FAN_OUT, ResidualBlock, run_stem
from jaxrobust.models.layers import Features

Denoise = Callable[[Features], Features]

ACTIVATIONS = ("elu", "relu")
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
        check_choice("stem", self.stem, ("imagenet", "cifar"))
        check_choice("activation", self.activation, ACTIVATIONS)

    @nn.compact
    def __call__(
        self, x: Features, *, train: bool = False, denoise: Denoise | None = None
    ) -> dict[str, Features]:
        """Returns the results of the four stages, before any denoising.

        `denoise` is applied to those of the stem and of stage 1 on their way on.
        """
        denoise = denoise or (lambda x: x)
        init = None if self.torch_init else HE_FAN_OUT
        act, groups, levels = getattr(nn, self.activation), self.cardinality, {}
        common: dict[str, Any] = {"kernel_init": init, "train": train}
        x = denoise(run_stem(self, x, self.stem, self.width, act, **common))
        common |= {"bottleneck": True, "activation": act, "groups": groups}
        inner = self.width if groups == 1 else groups * GROUP_WIDTH  # of stage 1
        for k, (level, blocks) in enumerate(zip(LEVELS, self.layers, strict=True), 1):
            factor = 2 ** (k - 1)
            sizes = {"features": self.width * factor, "inner": inner * factor}
            x = self.run_stage(x, k, blocks, ResidualBlock, **sizes, **common)
            levels[level] = x
            if k == 1:
                x = denoise(x)
        return levels
