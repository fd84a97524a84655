"""PreAct-ResNet for 32 px images.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027,
in the form of the robustness literature (Rice, Wong and Kolter, ICML 2020), or that of
Gowal et al. 2020, arXiv 2010.03593: swish, TensorFlow's padding, 3x3 shortcuts.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.array_types import Images
from jaxrobust.models import _variants, layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models.layers import Features, Initializer

ACTIVATIONS = ("relu", "swish")
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class PreActBlock(layers.Module):
    """Norm, ReLU, 3x3 convolution, twice, plus the shortcut.

    Attributes:
      features: channels of the result.
      strides: of the first convolution and the shortcut.
      shortcut_on_input: a convolved shortcut starts at the input of the block, not
        after the first norm and ReLU.
      shortcut_kernel: side of its kernel, 1 or 3.
      activation: `relu`, `swish` or `pssilu` (see `_variants.py`).
      same_padding: see `PreActResNet`.
      mean_sparse: after both norms and the sum, see `WideResNet`.
      squeeze: ratio of squeeze and excitation after the second convolution, 0 for none.
      dropout: rate, before the second convolution.
      kernel_init: initialiser of the kernels; None is torch's own.
    """

    features: int
    strides: int = 1
    shortcut_on_input: bool = False
    shortcut_kernel: int = 1
    activation: str = "relu"
    same_padding: bool = False
    mean_sparse: bool = False
    squeeze: float = 0.0
    dropout: float = 0.0
    kernel_init: Initializer | None = None

    def _conv(self, x: Features, kernel: int, strides: int, name: str) -> Features:
        zeros = 2 * (kernel // 2)  # keep the size of the image, over `strides`
        if self.same_padding:
            # A 3x3 kernel that moves by 2 has one row of zeros, after the image.
            zeros = max(kernel - strides, 0)
        padding = (zeros // 2, zeros - zeros // 2)
        options: dict[str, Any] = {"strides": strides, "padding": padding}
        options |= {"use_bias": False, "kernel_init": self.kernel_init}
        return self.convolve(x, self.features, kernel, name, **options)

    def _sparse(self, x: Features, name: str) -> Features:
        return _variants.MeanSparse(name=name)(x) if self.mean_sparse else x

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to `[B, H/strides, W/strides, features]`."""
        act = _variants.activation(self.activation)
        h = self._sparse(self.batch_norm(x, "norm1", train=train), "sparse1")
        shortcut, h = x, act(h)
        if self.strides != 1 or x.shape[-1] != self.features:
            source = x if self.shortcut_on_input else h
            size = self.shortcut_kernel
            shortcut = self._conv(source, size, self.strides, "shortcut")
        h = self._conv(h, 3, self.strides, "conv1")
        h = self._sparse(self.batch_norm(h, "norm2", train=train), "sparse2")
        h = act(h)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = self._conv(h, 3, 1, "conv2")
        if self.squeeze:
            fields = {"name": "squeeze_excite", "computing": self.computing}
            h = _variants.SqueezeExcite(self.squeeze, **fields)(h)
        return self._sparse(h + shortcut, "sparse_sum")


class PreActResNet(layers.DeepNetwork):
    """PreAct-ResNet-18 (or 34): images `[B, H, W, C]` to `Outputs`.

    Attributes:
      depth: 18 or 34.
      width: channels of the first stage.
      final_norm: norm and ReLU before the pooling.
      shortcut_on_input: see `PreActBlock`; some published weights need it.
      shortcut_kernel: see `PreActBlock`.
      activation: `relu` or `swish`.
      same_padding: strided 3x3 convolutions pad as TensorFlow does, only after the
        image. Weights of DeepMind's networks need it, and have their own names
        (`convert.from_torch`).
    """

    depth: int = 18
    width: int = 64
    final_norm: bool = True
    shortcut_on_input: bool = False
    shortcut_kernel: int = 1
    activation: str = "relu"
    same_padding: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_one_of("depth", self.depth, DEPTHS)
        layers.check_one_of("shortcut_kernel", self.shortcut_kernel, (1, 3))
        layers.check_one_of("activation", self.activation, ACTIVATIONS)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images)
        x = self.convolve(x, self.width, 3, "stem", padding=1, use_bias=False)
        x, features = self.run_stages(
            x,
            DEPTHS[self.depth],
            PreActBlock,
            self.width,
            train=train,
            shortcut_on_input=self.shortcut_on_input,
            shortcut_kernel=self.shortcut_kernel,
            activation=self.activation,
            same_padding=self.same_padding,
        )
        if self.final_norm:
            x = self.batch_norm(x, "head_norm", train=train)
            x = getattr(nn, self.activation)(x)
        return self.classified(jnp.mean(x, (1, 2)), features)
