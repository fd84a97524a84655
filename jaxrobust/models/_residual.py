"""The post-activation residual block and what the networks made of it share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models import _pool, layers
from jaxrobust.models.layers import Features, Initializer

EXPANSION = 4  # of a bottleneck block

# N(0, sqrt(2 / (k k out))), of torchvision and the early CIFAR ResNets.
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# N(0, sqrt(2 / (k k in))), torch's `kaiming_normal_`.
HE_FAN_IN = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class ConvNorm(layers.Module):
    """Convolution without bias, then BatchNorm; keeps the size at stride 1.

    Attributes:
      features: channels of the result.
      kernel: side of the kernel, odd.
      strides: of the convolution.
      kernel_init: initialiser of the kernel; None is torch's own.
      groups: of channels that do not meet.
    """

    features: int
    kernel: int
    strides: int = 1
    kernel_init: Initializer | None = HE_FAN_OUT
    groups: int = 1

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to `[B, H/strides, W/strides, features]`."""
        options: dict[str, Any] = {"strides": self.strides, "groups": self.groups}
        options |= {"kernel_init": self.kernel_init, "padding": self.kernel // 2}
        # No bias: the norm takes the mean away, and has one of its own.
        options["use_bias"] = False
        x = self.convolve(x, self.features, self.kernel, "conv", **options)
        return self.batch_norm(x, "norm", train=train)


class ResidualBlock(layers.Module):
    """Two 3x3 convolutions or a bottleneck, plus the shortcut, then activation.

    Each convolution is followed by BatchNorm, all but the last by the activation.

    Attributes:
      features: channels of the 3x3 convolutions.
      strides: of the first 3x3 convolution and the shortcut.
      bottleneck: 1x1, 3x3, 1x1 convolutions, the last to four times the channels.
      shortcut: where the shape changes, `conv` (1x1 convolution and BatchNorm, option B
        of He et al.) or `pad` (every other pixel, zero channels; option A, no
        parameters).
      kernel_init: initialiser of the kernels; None is torch's own.
      activation: ReLU unless said otherwise.
      groups: of channels in all but the last convolution of a bottleneck (ResNeXt).
      inner: channels inside a bottleneck, `features` if 0.
    """

    features: int
    strides: int = 1
    bottleneck: bool = False
    shortcut: str = "conv"
    kernel_init: Initializer | None = HE_FAN_OUT
    activation: Callable[[Features], Features] = nn.relu
    groups: int = 1
    inner: int = 0

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to `[B, H/strides, W/strides, out]`."""
        # (channels, kernel, strides) of each convolution.
        plan = [(self.features, 3, self.strides), (self.features, 3, 1)]
        if self.bottleneck:
            inner, wide = self.inner or self.features, EXPANSION * self.features
            plan = [(inner, 1, 1), (inner, 3, self.strides), (wide, 1, 1)]
        out = plan[-1][0]
        common = {"kernel_init": self.kernel_init, "computing": self.computing}
        h = x
        for n, sizes in enumerate(plan, 1):
            groups = self.groups if n < len(plan) else 1
            part = ConvNorm(*sizes, groups=groups, name=f"layer{n}", **common)
            h = part(h, train=train)
            if n < len(plan):
                h = self.activation(h)
        if self.strides != 1 or x.shape[-1] != out:
            if self.shortcut == "pad":
                x = _subsample_and_pad(x, self.strides, out)
            else:
                part = ConvNorm(out, 1, self.strides, name="shortcut", **common)
                x = part(x, train=train)
        return self.activation(h + x)


def run_stem(
    module: layers.Module,
    x: Features,
    kind: str,
    width: int,
    activation: Callable[[Features], Features],
    *,
    train: bool,
    kernel_init: Initializer | None = HE_FAN_OUT,
) -> Features:
    """Runs the start of a network, `imagenet` or `cifar`; see `resnet.ResNet`."""
    kernel, strides = (7, 2) if kind == "imagenet" else (3, 1)
    fields = {"kernel_init": kernel_init, "name": "stem", "computing": module.computing}
    x = activation(ConvNorm(width, kernel, strides, **fields)(x, train=train))
    return _pool.max_pool(x, 3, 2, 1) if kind == "imagenet" else x


def _subsample_and_pad(x: Features, strides: int, channels: int) -> Features:
    """Takes every `strides`-th pixel, puts zero channels on both sides."""
    added = channels - x.shape[-1]
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, [(0, 0)] * 3 + [(added // 2, added - added // 2)])


# Examples of depths 6n + 2 and 6n + 4, for those who meet the error.
_DEPTHS = {2: "20, 32, 44, 56, 110", 4: "10, 16, 22, 28, 34"}


def three_stages(depth: int, rest: int) -> tuple[int, int, int]:
    """Returns n blocks each of a depth 6n + `rest`, 2 or 4; ValueError for others."""
    layers.check_sizes(depth=depth)
    blocks, left = divmod(depth - rest, 6)
    if blocks < 1 or left:
        near = 6 * max(1, round((depth - rest) / 6)) + rest
        raise ValueError(
            f"`depth` must be 6n + {rest} ({_DEPTHS[rest]} ...), got {depth}; the "
            f"nearest is {near}."
        )
    return blocks, blocks, blocks
