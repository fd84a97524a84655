"""The pyramid decoder of FPD: c2 to c5 to an image."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxrobust.models import _residual, layers
from jaxrobust.models._encoders import LEVELS
from jaxrobust.models.layers import Features


def upsample_add(x: Features, lateral: Features) -> Features:
    """Resizes `x` to the size of `lateral` (bilinear, half-pixel centres), adds it."""
    shape = (*lateral.shape[:3], x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False) + lateral


class TransposedConv(layers.Module):
    """Square transposed convolution with bias, as torch's.

    With `strides` equal to `kernel` the windows do not overlap: it is a matmul. With
    stride 1 it is a convolution with the flipped kernel. Both are fast in CPU loops.

    Attributes:
      features: channels of the result.
      kernel: side of the kernel.
      strides: 1 or `kernel`.
      padding: pixels cut off on each side of the result.
    """

    features: int
    kernel: int = 2
    strides: int = 2
    padding: int = 0

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Maps `[B, H, W, C]` to `[B, (H-1) strides + kernel - 2 padding, ...]`."""
        size = self.kernel
        # torch takes the fan of a transposed kernel from its second axis, the result's.
        init = layers.torch_uniform(self.features * size * size)
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("transposed_kernel", init, shape, jnp.float32)
        bias = self.param("bias", init, shape[-1:], jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.computing.dtype)
        if self.strides == 1:
            margin = size - 1 - self.padding
            flipped, pads = jnp.flip(kernel, (0, 1)), (margin, margin)
            out = layers.convolution(x, flipped, 1, pads, 1, self.computing.loop_safe)
        else:
            # Each pixel becomes a window of its own; they lie side by side.
            batch, height, width, _ = x.shape
            out = jnp.einsum("bhwi,rcio->bhrwco", x, kernel)
            out = out.reshape(batch, height * size, width * size, self.features)
        return layers.add_bias(out, bias)


class Decoder(layers.Module):
    """Top-down pathway and transposed convolutions.

    A 1x1 convolution of c5, resized and added to 1x1 convolutions of c4, c3 and c2 in
    turn, a 3x3 convolution, then linear transposed convolutions to the image.

    Attributes:
      channels: of the image.
      ratio: side of the image over side of c2, a power of 2.
      pyramid: channels of the pathway.
      widths: channels of the transposed convolutions before the last.
      torch_init: torch's initial kernels; else N(0, sqrt(2 / (k k out))).
    """

    channels: int
    ratio: int
    pyramid: int = 256
    widths: tuple[int, ...] = (64, 16)
    torch_init: bool = False

    def _conv(self, x: Features, kernel: int, name: str) -> Features:
        init = None if self.torch_init else _residual.HE_FAN_OUT
        options = {"padding": kernel // 2, "kernel_init": init}
        return self.convolve(x, self.pyramid, kernel, name, **options)

    @nn.compact
    def __call__(self, levels: dict[str, Features]) -> Features:
        """Maps c2 to c5 to images `[B, H, W, channels]`."""
        *lower, top = LEVELS
        x = self._conv(levels[top], 1, "top")
        for level in reversed(lower):
            x = upsample_add(x, self._conv(levels[level], 1, f"lateral_{level}"))
        x = self._conv(x, 3, "smooth")
        for n, sizes in enumerate(self.plan(), 1):
            x = TransposedConv(*sizes, computing=self.computing, name=f"up{n}")(x)
        return x

    def plan(self) -> list[tuple[int, int, int, int]]:
        """Returns (channels, kernel, strides, padding) of the transposed convolutions.

        At ratio 1 the released ResNeXt has 2x2 kernels of stride 1, the first with
        padding 1; otherwise as many of stride 2 as the ratio needs, the rest 1x1.
        """
        doublings = round(math.log2(self.ratio))
        last = (self.channels, 1, 1, 0)
        if not doublings:
            first, *others = self.widths
            unpadded = [(width, 1, 1, 0) for width in others[1:]]
            second = [(width, 2, 1, 0) for width in others[:1]]
            return [(first, 2, 1, 1), *second, *unpadded, last]
        widths = self.widths + self.widths[-1:] * (doublings - len(self.widths))
        sizes = [(2, 2, 0)] * doublings + [(1, 1, 0)] * (len(widths) - doublings)
        return [*((w, *size) for w, size in zip(widths, sizes, strict=True)), last]
