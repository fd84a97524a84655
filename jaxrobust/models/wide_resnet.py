"""Wide ResNet for 32 px images.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146, in the
form that TRADES (Zhang et al., ICML 2019) and RobustBench use; with swish and
TensorFlow's padding that of Gowal et al. 2020, arXiv 2010.03593.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models.layers import Features

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class WideBlock(layers.Module):
    """Norm, ReLU, 3x3 convolution, twice, plus the shortcut.

    Attributes:
      features: channels of the result.
      strides: of the first convolution and the shortcut.
      dropout: rate, before the second convolution.
      activation: `relu` or `swish`.
      same_padding: see `WideResNet`.
    """

    features: int
    strides: int = 1
    dropout: float = 0.0
    activation: str = "relu"
    same_padding: bool = False

    def _conv(self, x: Features, kernel: int, strides: int, name: str) -> Features:
        same = self.same_padding
        return layers.make_conv(
            x.shape[-1],
            self.features,
            kernel,
            strides=strides,
            padding=layers.same_padding(kernel, strides) if same else kernel // 2,
            use_bias=False,
            kernel_init=_HE_NORMAL,
            **self.computing,
            name=name,
        )(x)

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to `[B, H/strides, W/strides, features]`."""
        act = layers.ACTIVATIONS[self.activation]
        norm1 = layers.BatchNorm(dtype=self.dtype, name="norm1")
        norm2 = layers.BatchNorm(dtype=self.dtype, name="norm2")
        shortcut, h = x, act(norm1(x, train=train))
        if x.shape[-1] != self.features:
            shortcut = self._conv(h, 1, self.strides, "shortcut")
        h = self._conv(h, 3, self.strides, "conv1")
        h = act(norm2(h, train=train))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        return self._conv(h, 3, 1, "conv2") + shortcut


class WideResNet(layers.DeepModule):
    """WRN-depth-width: images `[B, H, W, C]` to `Outputs`.

    Attributes:
      depth: 6n + 4, n blocks in each of three stages.
      width: factor of the channels 16, 32, 64.
      num_classes: number of classes K.
      dropout: rate inside blocks.
      activation: `relu` or `swish`.
      same_padding: strided 3x3 convolutions pad as TensorFlow does, only after the
        image. Weights of DeepMind's networks need it, and have their own names
        (`convert.from_torch`).
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
    """

    depth: int = 28
    width: int = 10
    num_classes: int = 10
    dropout: float = 0.0
    activation: str = "relu"
    same_padding: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(
            depth=self.depth, width=self.width, num_classes=self.num_classes
        )
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(
                f"`depth` must be 6n + 4 (10, 16, 22, 28, 34 ...), got {self.depth}."
            )
        layers.check_activation(self.activation)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {self.dropout!r}.")

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = layers.normalize(images, self.mean, self.std)
        x = layers.make_conv(
            x.shape[-1],
            16,
            3,
            padding=1,
            use_bias=False,
            kernel_init=_HE_NORMAL,
            **self.computing,
            name="stem",
        )(x)
        features: dict[str, Array] = {}
        for k in (1, 2, 3):
            for n in range((self.depth - 4) // 6):
                block = WideBlock(
                    16 * self.width * 2 ** (k - 1),
                    2 if k > 1 and n == 0 else 1,
                    self.dropout,
                    self.activation,
                    self.same_padding,
                    **self.computing,
                    name=f"stage{k}_block{n}",
                )
                x = self.run(block, x, train=train)
            features[f"stage{k}/out"] = x
        norm = layers.BatchNorm(dtype=self.dtype, name="head_norm")
        x = layers.ACTIVATIONS[self.activation](norm(x, train=train))
        pooled = jnp.mean(x, (1, 2))
        dense = layers.make_dense(
            pooled.shape[-1],
            self.num_classes,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="classifier",
        )
        logits = layers.as_logits(dense(pooled))
        return Outputs(logits, {**features, "penultimate": pooled}, None)
