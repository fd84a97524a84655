"""The blocks of SSP networks: one step of an integrator, and the step between stages.

Kim, Shin and Yu, ECCV 2020, arXiv 2010.10047. The stages of a block share the weights
of f, so that every kind of block has as many parameters as a residual block.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from jaxrobust._checks import nearest_match
from jaxrobust.models import integrators, layers
from jaxrobust.models.layers import DType, Features, Initializer

INTEGRATORS = (*integrators.METHODS, "ark")
_UPSCALE = {"ssp2": math.sqrt(2), "ssp3": math.sqrt(3)}

# The release evaluates f twice at the start of an `ark` step. Evaluated once here, it
# moves the running statistics as often as it did there.
_UPDATES = {"ark": (2, 1)}


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a network makes its convolutions and norms.

    Attributes:
      norm: kind of norm, see `layers.make_norm`.
      init: initial convolution kernels: `basic` (Kaiming-uniform), `kn`
        (Kaiming-normal, fan out) or `ortho` (orthogonal).
      slope: leaky-ReLU slope of `basic`.
      scale_init: of BatchNorm's scale.
      dtype: to compute in.
      loop_safe: see `layers.make_conv`.
    """

    norm: str = "b"
    init: str = "basic"
    slope: float = math.sqrt(5)
    scale_init: Initializer = nn.initializers.ones
    dtype: DType = None
    loop_safe: bool = True

    def make_norm(self, channels: int, name: str) -> nn.Module:
        """Makes a norm over so many channels."""
        common = {"dtype": self.dtype, "scale_init": self.scale_init}
        return layers.make_norm(self.norm, channels, name=name, **common)

    def make_conv(
        self,
        name: str,
        channels: int,
        features: int,
        kernel: int = 3,
        *,
        upscale: float = 1.0,
        **options: Any,
    ) -> layers.Conv:
        """Makes a convolution with padding 1; other options as of `make_conv`."""
        init = self.kernel_init(kernel * kernel * channels)
        return layers.make_conv(
            channels,
            features,
            kernel,
            kernel_init=init if upscale == 1 else layers.scaled(init, upscale),
            dtype=self.dtype,
            loop_safe=self.loop_safe,
            name=name,
            **{"padding": 1, **options},
        )

    def kernel_init(self, fan_in: int) -> Initializer:
        """Returns how kernels of so many inputs per output start, not upscaled."""
        if self.init == "kn":
            return nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        if self.init == "ortho":
            return nn.initializers.orthogonal()
        return layers.torch_uniform(fan_in, self.slope)


class Block(nn.Module):
    """One step of an integrator on f = conv(relu(norm(conv(relu(norm(u)))))).

    Attributes:
      integrator: a name of `integrators.METHODS`, or `ark`.
      parts: how to make convolutions and norms.
      coef: factor of f, the step size.
      ark_init: raw initial values of the two scalars of `ark`.
    """

    integrator: str = "res"
    parts: Parts = Parts()
    coef: float = 1.0
    ark_init: tuple[float, float] = (-1.0, 0.5)

    @nn.compact
    def __call__(self, u: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to the same shape."""
        channels = u.shape[-1]
        upscale = 1.0
        if self.parts.init == "upscale":
            upscale = _UPSCALE.get(self.integrator, 1.0)
        norm1 = self.parts.make_norm(channels, "norm1")
        conv1 = self.parts.make_conv("conv1", channels, channels, upscale=upscale)
        norm2 = self.parts.make_norm(channels, "norm2")
        conv2 = self.parts.make_conv("conv2", channels, channels, upscale=upscale)
        updates = _in_order(_UPDATES.get(self.integrator, ()))

        def f(u: Features) -> Features:
            count = next(updates)
            h = conv1(nn.relu(norm1(u, train=train, updates=count)))
            h = conv2(nn.relu(norm2(h, train=train, updates=count)))
            chex.assert_equal_shape([u, h])  # a field maps a state to its slope
            return h if self.coef == 1 else self.coef * h

        # The float32 scalars of `ark` would widen all that follows.
        out = self._step()(f, u)
        return out.astype(self.parts.dtype or out.dtype)

    def _step(self) -> integrators.Step:
        if self.integrator != "ark":
            return integrators.get(self.integrator)
        a, b = (
            self.param(name, nn.initializers.constant(value), (), jnp.float32)
            for name, value in zip("ab", self.ark_init, strict=True)
        )
        return integrators.ark(a, b)


def _in_order(counts: Iterable[int]):
    """Counts of BatchNorm updates of successive evaluations; 1 after the last."""
    return itertools.chain(counts, itertools.repeat(1))


class Transition(nn.Module):
    """The residual block between stages: halves the size, pre-activation.

    Attributes:
      features: channels of the result.
      parts: how to make convolutions and norms.
      strides: of the first convolution and the shortcut.
    """

    features: int
    parts: Parts = Parts()
    strides: int = 2

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to `[B, ceil(H/2), ceil(W/2), features]`."""
        make_conv, make_norm = self.parts.make_conv, self.parts.make_norm
        channels, features, strides = x.shape[-1], self.features, self.strides
        # The release applies this norm once for the shortcut, once for the residual.
        a = nn.relu(make_norm(channels, "norm1")(x, train=train, updates=2))
        shortcut = make_conv(
            "shortcut_conv", channels, features, 1, strides=strides, padding=0,
            use_bias=False,
        )(a)  # fmt: skip
        shortcut = make_norm(features, "shortcut_norm")(shortcut, train=train)
        h = make_conv("conv1", channels, features, strides=strides)(a)
        h = nn.relu(make_norm(features, "norm2")(h, train=train))
        return make_conv("conv2", features, features)(h) + shortcut


def split_integrators(text: str, stages: int) -> tuple[str, ...]:
    """Splits `res` or `ark,res,ssp2` into one known name per stage."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in INTEGRATORS:
            hint = nearest_match(name, INTEGRATORS)
            raise ValueError(f"unknown integrator {name!r}. {hint}")
    if len(names) == 1:
        return names * stages
    if len(names) != stages:
        raise ValueError(
            f"`integrator` names {len(names)} kinds of block for {stages} stages: "
            f"{text!r}; give one, or one per stage."
        )
    return names
