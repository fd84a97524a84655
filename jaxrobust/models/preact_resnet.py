"""PreAct-ResNet for 32 px images.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027,
in the form of the robustness literature (Rice, Wong and Kolter, ICML 2020), or that of
Gowal et al. 2020, arXiv 2010.03593: swish, TensorFlow's padding, 3x3 shortcuts.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models.layers import Features

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class PreActBlock(layers.Module):
    """Norm, ReLU, 3x3 convolution, twice, plus the shortcut.

    Attributes:
      features: channels of the result.
      strides: of the first convolution and the shortcut.
      shortcut_on_input: a convolved shortcut starts at the input of the block, not
        after the first norm and ReLU.
      shortcut_kernel: side of its kernel, 1 or 3.
      activation: `relu` or `swish`.
      same_padding: see `PreActResNet`.
    """

    features: int
    strides: int = 1
    shortcut_on_input: bool = False
    shortcut_kernel: int = 1
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
        if self.strides != 1 or x.shape[-1] != self.features:
            source = x if self.shortcut_on_input else h
            shortcut = self._conv(
                source, self.shortcut_kernel, self.strides, "shortcut"
            )
        h = self._conv(h, 3, self.strides, "conv1")
        h = self._conv(act(norm2(h, train=train)), 3, 1, "conv2")
        return h + shortcut


class PreActResNet(layers.DeepModule):
    """PreAct-ResNet-18 (or 34): images `[B, H, W, C]` to `Outputs`.

    Attributes:
      depth: 18 or 34.
      num_classes: number of classes K.
      width: channels of the first stage.
      final_norm: norm and ReLU before the pooling.
      shortcut_on_input: see `PreActBlock`; some published weights need it.
      shortcut_kernel: see `PreActBlock`.
      activation: `relu` or `swish`.
      same_padding: strided 3x3 convolutions pad as TensorFlow does, only after the
        image. Weights of DeepMind's networks need it, and have their own names
        (`convert.from_torch`).
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
    """

    depth: int = 18
    num_classes: int = 10
    width: int = 64
    final_norm: bool = True
    shortcut_on_input: bool = False
    shortcut_kernel: int = 1
    activation: str = "relu"
    same_padding: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(num_classes=self.num_classes, width=self.width)
        if self.depth not in DEPTHS:
            raise ValueError(f"`depth` must be 18 or 34, got {self.depth!r}.")
        if self.shortcut_kernel not in (1, 3):
            raise ValueError(
                f"`shortcut_kernel` must be 1 or 3, got {self.shortcut_kernel!r}."
            )
        layers.check_activation(self.activation)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = layers.normalize(images, self.mean, self.std)
        x = layers.make_conv(
            x.shape[-1],
            self.width,
            3,
            padding=1,
            use_bias=False,
            **self.computing,
            name="stem",
        )(x)
        features: dict[str, Array] = {}
        for k, blocks in enumerate(DEPTHS[self.depth], 1):
            for n in range(blocks):
                block = PreActBlock(
                    self.width * 2 ** (k - 1),
                    2 if k > 1 and n == 0 else 1,
                    self.shortcut_on_input,
                    self.shortcut_kernel,
                    self.activation,
                    self.same_padding,
                    **self.computing,
                    name=f"stage{k}_block{n}",
                )
                x = self.run(block, x, train=train)
            features[f"stage{k}/out"] = x
        if self.final_norm:
            norm = layers.BatchNorm(dtype=self.dtype, name="head_norm")
            x = layers.ACTIVATIONS[self.activation](norm(x, train=train))
        pooled = jnp.mean(x, (1, 2))
        dense = layers.make_dense(
            pooled.shape[-1], self.num_classes, dtype=self.dtype, name="classifier"
        )
        logits = layers.as_logits(dense(pooled))
        return Outputs(logits, {**features, "penultimate": pooled}, None)
