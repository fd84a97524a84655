"""The CNNs that certified training is measured on: convolutions with strides, no pools.

Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training
Verifiably Robust Models", arXiv 1810.12715, table 1.
"""

from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs


class _Plan(NamedTuple):
    """Convolutions as (channels, kernel, stride, padding), dense layers, fewest pixels.

    The padding keeps the size where the stride is 1; at stride 2 it is on all sides.
    """

    convolutions: tuple[tuple[int, int, int, int], ...]
    dense: tuple[int, ...]
    min_size: int


PLANS = {
    "small": _Plan(((16, 4, 2, 0), (32, 4, 1, 0)), (100,), 10),
    "medium": _Plan(
        ((32, 3, 1, 0), (32, 4, 2, 0), (64, 3, 1, 0), (64, 4, 2, 0)), (512, 512), 16
    ),
    "large": _Plan(
        ((64, 3, 1, 1), (64, 3, 1, 1), (128, 3, 2, 1), (128, 3, 1, 1), (128, 3, 1, 1)),
        (512,),
        1,
    ),
}


class IBPCNN(layers.Network):
    """Convolutions and dense layers with ReLUs: images `[B, H, W, C]` to `Outputs`.

    Images have at least 10x10 pixels (`small`), 16x16 (`medium`), any size (`large`).
    `features` holds `stage1/out` and so on, after each convolution's ReLU, and
    `penultimate`, `[B, 100]` or `[B, 512]`.

    Attributes:
      size: `small` (two convolutions), `medium` (four) or `large` (five).
    """

    size: str = "small"

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_one_of("size", self.size, tuple(PLANS))

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        del train  # nothing here depends on it
        plan = PLANS[self.size]
        x = self.normalized(images, plan.min_size)
        features: dict[str, Array] = {}
        for k, (channels, kernel, strides, padding) in enumerate(plan.convolutions, 1):
            x = self.convolve(
                x, channels, kernel, f"conv{k}", strides=strides, padding=padding
            )
            x = features[f"stage{k}/out"] = nn.relu(x)
        x = layers.flatten(x)
        for k, width in enumerate(plan.dense, 1):
            x = nn.relu(self.dense(x, width, f"dense{k}"))
        return self.classified(x, features)
