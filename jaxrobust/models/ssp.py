"""SSP networks: residual blocks as Runge-Kutta integrators.

Kim, Shin and Yu, "Robust Neural Networks inspired by Strong Stability Preserving
Runge-Kutta methods", ECCV 2020, arXiv 2010.10047.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._ssp_block import Block as Block
from jaxrobust.models._ssp_block import Parts as Parts
from jaxrobust.models._ssp_block import Transition as Transition
from jaxrobust.models._ssp_block import split_integrators
from jaxrobust.models.layers import Features


class _SSP(layers.DeepNetwork):
    """What both networks share.

    Attributes:
      integrator: kind of block.
      blocks: blocks per stage.
      width: channels of the first stage.
      norm: `b`, `g`, `l` or `i`, see `Parts`.
      init_option: `init` of `models.create` (a Linen module has a method of that name),
        see `Parts`.
      ark_init: raw initial values (a, b) of `ark` blocks.
    """

    inits: ClassVar[tuple[str, ...]] = ("basic", "upscale")

    integrator: str = "res"
    blocks: int = 6
    width: int = 16
    norm: str = "b"
    init_option: str = "basic"
    ark_init: tuple[float, float] = (0.25, 1.0)

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        if self.init_option not in self.inits:
            raise ValueError(
                f"unknown init {self.init_option!r}; use one of "
                f"{', '.join(self.inits)}."
            )
        layers.check_norm(self.norm)
        self.stage_integrators()

    def stage_integrators(self) -> tuple[str, ...]:
        """Returns the kind of block of each stage."""
        return split_integrators(self.integrator, 1)

    def run_blocks(
        self, x: Features, k: int, integrator: str, parts: Parts, *, train: bool
    ) -> Features:
        """Runs the blocks of stage `k`, from 1."""
        for n in range(self.blocks):
            name, ark_init = f"stage{k}_block{n}", self.ark_init
            block = Block(integrator, parts, ark_init=ark_init, name=name)
            x = layers.run_block(block, x, train=train, remat=self.computing.remat)
        return x


class SSPNet(_SSP):
    """The CIFAR-10 and TinyImageNet networks: images `[B, H, W, C]` to `Outputs`.

    A 3x3 convolution, stages of `blocks` blocks with transitions between them that
    halve the size and double the channels, global average pool, dense. `features`
    holds `stageK/in` and `stageK/out` (K from 1) and `penultimate` (pooled, `[B, D]`).

    Attributes:
      integrator: kind of block, one name for all stages or a comma-separated list of
        one per stage. `ark` alone is the paper's mix: ark, res, then ssp2.
      stages: number of stages.
    """

    stages: int = 3

    def stage_integrators(self) -> tuple[str, ...]:
        """Returns the kind of block of each stage."""
        if self.integrator == "ark":
            mix = ("ark", "res", *["ssp2"] * self.stages)
            return mix[: self.stages]
        return split_integrators(self.integrator, self.stages)

    def parts(self) -> Parts:
        """Returns how the blocks make their convolutions and norms."""
        return Parts(
            self.norm,
            self.init_option,
            # As released: the more blocks add up, the smaller they start.
            math.sqrt(5) * self.blocks,
            nn.initializers.uniform(1.0),
            computing=self.computing,
        )

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        parts = self.parts()
        features: dict[str, Array] = {}
        x = parts.make_conv("stem", self.width)(self.normalized(images))
        for k, integrator in enumerate(self.stage_integrators(), 1):
            if k > 1:
                width = self.width * 2 ** (k - 1)
                step = Transition(width, parts, name=f"transition{k - 1}")
                x = layers.run_block(step, x, train=train, remat=self.computing.remat)
            features[f"stage{k}/in"] = x
            x = self.run_blocks(x, k, integrator, parts, train=train)
            features[f"stage{k}/out"] = x
        init = layers.torch_uniform(slope=parts.slope)
        return self.classified(jnp.mean(x, (1, 2)), features, kernel_init=init)


class SSPMnist(_SSP):
    """The MNIST network: images `[B, H, W, C]` to `Outputs`.

    A stem of three convolutions (28 px to 6 px), `blocks` blocks, norm, ReLU, global
    average pool, dense. The paper has 5 blocks on MNIST, 3 on Fashion-MNIST. `features`
    holds `stage1/in`, `stage1/out` and `penultimate`. `init` may also be `kn` or
    `ortho`.
    """

    inits: ClassVar[tuple[str, ...]] = ("basic", "kn", "upscale", "ortho")

    blocks: int = 5
    width: int = 64
    norm: str = "g"
    ark_init: tuple[float, float] = (-1.0, 0.5)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1] of at least 6x6 pixels."""
        parts = Parts(self.norm, self.init_option, computing=self.computing)
        make_conv, make_norm, width = parts.make_conv, parts.make_norm, self.width
        x = self.normalized(images, at_least=6)
        x = make_conv("stem_conv1", width, padding=0)(x)
        x = nn.relu(make_norm("stem_norm1")(x, train=train))
        x = make_conv("stem_conv2", width, 4, strides=2)(x)
        x = nn.relu(make_norm("stem_norm2")(x, train=train))
        x = make_conv("stem_conv3", width, 4, strides=2)(x)
        features = {"stage1/in": x}
        x = self.run_blocks(x, 1, self.integrator, parts, train=train)
        features["stage1/out"] = x
        x = nn.relu(make_norm("head_norm")(x, train=train))
        return self.classified(jnp.mean(x, (1, 2)), features)
