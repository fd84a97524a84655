"""The blocks of SSP networks: one step of an integrator, and the step between stages.

Kim, Shin and Yu, ECCV 2020, arXiv 2010.10047. The stages of a block share the weights
of f, so that every kind of block has as many parameters as a residual block.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models import integrators, layers
from jaxrobust.models._computing import AS_USUAL, Computing
from jaxrobust.models.layers import Features, Initializer

_UPSCALE = {"ssp2": math.sqrt(2), "ssp3": math.sqrt(3)}

# How often the first evaluations of f, 1 after these, move the running statistics. The
# release evaluates f twice at the start of an `ark` step; once is enough here.
_UPDATES = {"ark": (2,)}


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a network makes its convolutions and norms.

    Attributes:
      norm: `b` for BatchNorm, or a kind of `layers.GroupNorm`.
      init: initial convolution kernels: `basic` (Kaiming-uniform), `kn`
        (Kaiming-normal, fan out), `ortho` (orthogonal), or `upscale` (`basic`, larger
        by sqrt 2 in ssp2 blocks and by sqrt 3 in ssp3 blocks).
      slope: leaky-ReLU slope of `basic`.
      scale_init: of BatchNorm's scale; the others start at 1.
      computing: how to compute.
    """

    norm: str = "b"
    init: str = "basic"
    slope: float = math.sqrt(5)
    scale_init: Initializer = nn.initializers.ones
    computing: Computing = AS_USUAL

    def __post_init__(self) -> None:
        """Checks the kind of norm."""
        layers.check_norm(self.norm)

    def make_norm(self, name: str) -> nn.Module:
        """Makes a norm of the last axis."""
        common = {"computing": self.computing, "name": name}
        if self.norm == "b":
            return layers.BatchNorm(scale_init=self.scale_init, **common)
        return layers.GroupNorm(self.norm, **common)

    def make_conv(
        self, name: str, features: int, kernel: int = 3, **options: Any
    ) -> layers.Conv:
        """Makes a convolution with padding 1; options are fields of `layers.Conv`."""
        options = {"padding": 1, "kernel_init": self.kernel_init(), **options}
        return layers.Conv(
            features, kernel, name=name, **options, computing=self.computing
        )

    def kernel_init(self, integrator: str = "") -> Initializer:
        """Returns how kernels start; `upscale` needs the block's kind."""
        if self.init == "kn":
            return nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        if self.init == "ortho":
            return nn.initializers.orthogonal()
        basic = layers.torch_uniform(slope=self.slope)
        if self.init != "upscale" or integrator not in _UPSCALE:
            return basic
        return lambda *args: _UPSCALE[integrator] * basic(*args)


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
        make_conv, make_norm = self.parts.make_conv, self.parts.make_norm
        channels, init = u.shape[-1], self.parts.kernel_init(self.integrator)
        norm1, norm2 = make_norm("norm1"), make_norm("norm2")
        conv1 = make_conv("conv1", channels, kernel_init=init)
        conv2 = make_conv("conv2", channels, kernel_init=init)
        first = _UPDATES.get(self.integrator, ())
        updates = itertools.chain(first, itertools.repeat(1))

        def f(u: Features) -> Features:
            count = next(updates)
            h = conv1(nn.relu(norm1(u, train=train, updates=count)))
            h = conv2(nn.relu(norm2(h, train=train, updates=count)))
            chex.assert_equal_shape([u, h])  # a field maps a state to its slope
            return h if self.coef == 1 else self.coef * h

        # The float32 scalars of `ark` would widen all that follows.
        out = self._step()(f, u)
        return out.astype(self.parts.computing.dtype or out.dtype)

    def _step(self) -> integrators.Step:
        if self.integrator != "ark":
            return integrators.get(self.integrator)
        a, b = (
            self.param(name, nn.initializers.constant(value), (), jnp.float32)
            for name, value in zip("ab", self.ark_init, strict=True)
        )
        return integrators.ark(a, b)


class Transition(nn.Module):
    """The residual block between stages: halves the size, pre-activation.

    Attributes:
      features: channels of the result.
      parts: how to make convolutions and norms.
    """

    features: int
    parts: Parts = Parts()

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to `[B, ceil(H/2), ceil(W/2), features]`."""
        make_conv, make_norm = self.parts.make_conv, self.parts.make_norm
        features = self.features
        # The release applies this norm once for the shortcut, once for the residual.
        a = nn.relu(make_norm("norm1")(x, train=train, updates=2))
        options = {"strides": 2, "padding": 0, "use_bias": False}
        shortcut = make_conv("shortcut_conv", features, 1, **options)(a)
        shortcut = make_norm("shortcut_norm")(shortcut, train=train)
        h = make_conv("conv1", features, strides=2)(a)
        h = nn.relu(make_norm("norm2")(h, train=train))
        return make_conv("conv2", features)(h) + shortcut


def split_integrators(text: str | Sequence[str], stages: int) -> tuple[str, ...]:
    """Splits `res` or `ark,res,ssp2` into one known name per stage."""
    if not isinstance(text, str | tuple | list):
        raise TypeError(f"`integrator` must be a name, or one per stage, got {text!r}.")
    parts = text.split(",") if isinstance(text, str) else map(str, text)
    names = tuple(part.strip() for part in parts)
    for name in names:
        if name != "ark":
            integrators.get(name)
    if len(names) == 1:
        return names * stages
    if len(names) != stages:
        raise ValueError(
            f"`integrator` names {len(names)} kinds of block for {stages} stages: "
            f"{text!r}; give one, or one per stage."
        )
    return names
