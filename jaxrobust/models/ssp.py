"""SSP networks: residual blocks as Runge-Kutta integrators.

Kim, Shin and Yu, "Robust Neural Networks inspired by Strong Stability Preserving
Runge-Kutta methods", ECCV 2020, arXiv 2010.10047. The stages of a block share the
weights of f, so that every kind of block has as many parameters as a residual block.
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import integrators, layers
from jaxrobust.models._outputs import Outputs
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
        return layers.make_norm(
            self.norm,
            channels,
            name=name,
            dtype=self.dtype,
            scale_init=self.scale_init,
        )

    def make_conv(
        self,
        name: str,
        channels: int,
        features: int,
        kernel: int = 3,
        *,
        strides: int = 1,
        padding: int = 1,
        use_bias: bool = True,
        upscale: float = 1.0,
    ) -> nn.Conv:
        """Makes a convolution of `channels` to `features` channels."""
        init = self._kernel_init(kernel * kernel * channels)
        return layers.make_conv(
            channels,
            features,
            kernel,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            kernel_init=init if upscale == 1 else layers.scaled(init, upscale),
            dtype=self.dtype,
            loop_safe=self.loop_safe,
            name=name,
        )

    def _kernel_init(self, fan_in: int) -> Initializer:
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
            return h if self.coef == 1 else self.coef * h

        return self._step()(f, u)

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


class SSPNet(nn.Module):
    """The CIFAR-10 and TinyImageNet networks: images `[B, H, W, C]` to `Outputs`.

    A 3x3 convolution, stages of `blocks` blocks with transitions between them that
    halve the size and double the channels, global average pool, dense. `features`
    holds `stageK/in` and `stageK/out` (K from 1) and `penultimate` (pooled, `[B, D]`).

    Attributes:
      integrator: kind of block, one name for all stages or a comma-separated list of
        one per stage. `ark` alone is the paper's mix: ark, res, then ssp2.
      blocks: blocks per stage.
      width: channels of the first stage.
      norm: `b`, `g`, `l` or `i`, see `layers.make_norm`.
      num_classes: number of classes K.
      stages: number of stages.
      init_option: `init` of `models.create` (a Linen module has a method of that name):
        `basic`, or `upscale` (kernels larger by sqrt 2 in ssp2 blocks and by
        sqrt 3 in ssp3 blocks).
      ark_init: raw initial values (a, b) of `ark` blocks.
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
      dtype: to compute in, such as `bfloat16`; parameters, statistics and logits stay
        float32. By default that of the images and parameters together.
      loop_safe: convolutions that stay fast in CPU loops; False allows forward mode.
    """

    integrator: str = "res"
    blocks: int = 6
    width: int = 16
    norm: str = "b"
    num_classes: int = 10
    stages: int = 3
    init_option: str = "basic"
    ark_init: tuple[float, float] = (0.25, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: DType = None
    loop_safe: bool = True

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        _check_sizes(self, ("blocks", "width", "num_classes", "stages"))
        _check_init(self.init_option, ("basic", "upscale"))
        layers.check_norm(self.norm)
        self.stage_integrators()

    def stage_integrators(self) -> tuple[str, ...]:
        """Returns the kind of block of each stage."""
        if self.integrator == "ark":
            mix = ("ark", "res", *["ssp2"] * self.stages)
            return mix[: self.stages]
        return _split_integrators(self.integrator, self.stages)

    def _parts(self) -> Parts:
        return Parts(
            self.norm,
            self.init_option,
            math.sqrt(5) * self.blocks,
            layers.unit_uniform,
            self.dtype,
            self.loop_safe,
        )

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        parts = self._parts()
        features: dict[str, Array] = {}
        x = layers.normalize(images, self.mean, self.std)
        x = parts.make_conv("stem", x.shape[-1], self.width)(x)
        for k, integrator in enumerate(self.stage_integrators(), 1):
            if k > 1:
                width = self.width * 2 ** (k - 1)
                x = Transition(width, parts, name=f"transition{k - 1}")(x, train=train)
            features[f"stage{k}/in"] = x
            for n in range(self.blocks):
                block = Block(
                    integrator, parts, ark_init=self.ark_init, name=f"stage{k}_block{n}"
                )
                x = block(x, train=train)
            features[f"stage{k}/out"] = x
        return _classify(x, features, self.num_classes, parts)


class SSPMnist(nn.Module):
    """The MNIST network: images `[B, H, W, C]` to `Outputs`.

    A stem of three convolutions (28 px to 6 px), `blocks` blocks, norm, ReLU, global
    average pool, dense. `features` holds `stage1/in`, `stage1/out` and `penultimate`.

    Attributes:
      integrator: kind of block.
      blocks: number of blocks (the paper has 5 on MNIST, 3 on Fashion-MNIST).
      width: channels.
      norm: `b`, `g`, `l` or `i`, see `layers.make_norm`.
      num_classes: number of classes K.
      init_option: `init` of `models.create`: `basic` (torch's), `kn` (Kaiming-normal,
        fan out), `ortho` (orthogonal), or `upscale`
        (kernels larger by sqrt 2 in ssp2 blocks and by sqrt 3 in ssp3 blocks).
      ark_init: raw initial values (a, b) of `ark` blocks.
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
      dtype: to compute in, such as `bfloat16`; parameters, statistics and logits stay
        float32. By default that of the images and parameters together.
      loop_safe: convolutions that stay fast in CPU loops; False allows forward mode.
    """

    integrator: str = "res"
    blocks: int = 5
    width: int = 64
    norm: str = "g"
    num_classes: int = 10
    init_option: str = "basic"
    ark_init: tuple[float, float] = (-1.0, 0.5)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: DType = None
    loop_safe: bool = True

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        _check_sizes(self, ("blocks", "width", "num_classes"))
        _check_init(self.init_option, ("basic", "kn", "upscale", "ortho"))
        layers.check_norm(self.norm)
        _split_integrators(self.integrator, 1)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1] of at least 6x6 pixels."""
        if min(images.shape[1:3]) < 6:
            raise ValueError(
                f"ssp_mnist needs images of at least 6x6 pixels, got {images.shape}."
            )
        parts = Parts(
            self.norm, self.init_option, dtype=self.dtype, loop_safe=self.loop_safe
        )
        make_conv, make_norm, width = parts.make_conv, parts.make_norm, self.width
        x = layers.normalize(images, self.mean, self.std)
        x = make_conv("stem_conv1", x.shape[-1], width, padding=0)(x)
        x = nn.relu(make_norm(width, "stem_norm1")(x, train=train))
        x = make_conv("stem_conv2", width, width, 4, strides=2)(x)
        x = nn.relu(make_norm(width, "stem_norm2")(x, train=train))
        x = make_conv("stem_conv3", width, width, 4, strides=2)(x)
        features = {"stage1/in": x}
        for n in range(self.blocks):
            block = Block(
                self.integrator,
                parts,
                ark_init=self.ark_init,
                name=f"stage1_block{n}",
            )
            x = block(x, train=train)
        features["stage1/out"] = x
        x = nn.relu(make_norm(width, "head_norm")(x, train=train))
        return _classify(x, features, self.num_classes, parts)


def _classify(
    x: Features, features: dict[str, Array], num_classes: int, parts: Parts
) -> Outputs:
    """Pools and classifies; called inside a network's compact `__call__`."""
    pooled = jnp.mean(x, (1, 2))
    dense = nn.Dense(
        num_classes,
        dtype=parts.dtype,
        kernel_init=layers.torch_uniform(pooled.shape[-1], parts.slope),
        bias_init=layers.torch_uniform(pooled.shape[-1]),
        name="classifier",
    )
    logits = layers.as_logits(dense(pooled))
    return Outputs(logits, {**features, "penultimate": pooled}, None)


def _check_sizes(model: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(model, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be an integer of at least 1, got {value!r}."
            )


def _check_init(init: object, known: tuple[str, ...]) -> None:
    if init not in known:
        raise ValueError(f"unknown init {init!r}; use one of {', '.join(known)}.")


def _split_integrators(text: str, stages: int) -> tuple[str, ...]:
    """Splits `res` or `ark,res,ssp2` into one known name per stage."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in INTEGRATORS:
            close = difflib.get_close_matches(name, INTEGRATORS, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"unknown integrator {name!r}; did you mean {close!r}? "
                f"Known: {', '.join(INTEGRATORS)}."
            )
    if len(names) == 1:
        return names * stages
    if len(names) != stages:
        raise ValueError(
            f"`integrator` names {len(names)} kinds of block for {stages} stages: "
            f"{text!r}; give one, or one per stage."
        )
    return names
