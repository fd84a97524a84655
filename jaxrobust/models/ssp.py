"""SSP networks: residual blocks as Runge-Kutta integrators.

Kim, Shin and Yu, "Robust Neural Networks inspired by Strong Stability Preserving
Runge-Kutta methods", ECCV 2020, arXiv 2010.10047.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._ssp_block import INTEGRATORS as INTEGRATORS
from jaxrobust.models._ssp_block import Block as Block
from jaxrobust.models._ssp_block import Parts as Parts
from jaxrobust.models._ssp_block import Transition as Transition
from jaxrobust.models._ssp_block import split_integrators


class SSPNet(layers.DeepNetwork):
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
      stages: number of stages.
      init_option: `init` of `models.create` (a Linen module has a method of that name):
        `basic`, or `upscale` (kernels larger by sqrt 2 in ssp2 blocks and by
        sqrt 3 in ssp3 blocks).
      ark_init: raw initial values (a, b) of `ark` blocks.
    """

    integrator: str = "res"
    blocks: int = 6
    width: int = 16
    norm: str = "b"
    num_classes: int = 10
    stages: int = 3
    init_option: str = "basic"
    ark_init: tuple[float, float] = (0.25, 1.0)

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        _check_init(self.init_option, ("basic", "upscale"))
        layers.check_norm(self.norm)
        self.stage_integrators()

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
            math.sqrt(5) * self.blocks,
            layers.unit_uniform,
            **self.computing,
        )

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        parts = self.parts()
        features: dict[str, Array] = {}
        x = self.normalized(images)
        x = parts.make_conv("stem", x.shape[-1], self.width)(x)
        for k, integrator in enumerate(self.stage_integrators(), 1):
            if k > 1:
                width = self.width * 2 ** (k - 1)
                step = Transition(width, parts, name=f"transition{k - 1}")
                x = self.run(step, x, train=train)
            features[f"stage{k}/in"] = x
            for n in range(self.blocks):
                block = Block(
                    integrator, parts, ark_init=self.ark_init, name=f"stage{k}_block{n}"
                )
                x = self.run(block, x, train=train)
            features[f"stage{k}/out"] = x
        x = jnp.mean(x, (1, 2))
        init = layers.torch_uniform(x.shape[-1], parts.slope)
        return self.classified(x, self.num_classes, features, kernel_init=init)


class SSPMnist(layers.DeepNetwork):
    """The MNIST network: images `[B, H, W, C]` to `Outputs`.

    A stem of three convolutions (28 px to 6 px), `blocks` blocks, norm, ReLU, global
    average pool, dense. `features` holds `stage1/in`, `stage1/out` and `penultimate`.

    Attributes:
      integrator: kind of block.
      blocks: number of blocks (the paper has 5 on MNIST, 3 on Fashion-MNIST).
      width: channels.
      norm: `b`, `g`, `l` or `i`, see `layers.make_norm`.
      init_option: `init` of `models.create`: `basic` (torch's), `kn` (Kaiming-normal,
        fan out), `ortho` (orthogonal), or `upscale`
        (kernels larger by sqrt 2 in ssp2 blocks and by sqrt 3 in ssp3 blocks).
      ark_init: raw initial values (a, b) of `ark` blocks.
    """

    integrator: str = "res"
    blocks: int = 5
    width: int = 64
    norm: str = "g"
    num_classes: int = 10
    init_option: str = "basic"
    ark_init: tuple[float, float] = (-1.0, 0.5)

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        _check_init(self.init_option, ("basic", "kn", "upscale", "ortho"))
        layers.check_norm(self.norm)
        split_integrators(self.integrator, 1)

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1] of at least 6x6 pixels."""
        layers.check_images(images)
        if min(images.shape[1:3]) < 6:
            raise ValueError(
                f"ssp_mnist needs images of at least 6x6 pixels, got {images.shape}."
            )
        parts = Parts(self.norm, self.init_option, **self.computing)
        make_conv, make_norm, width = parts.make_conv, parts.make_norm, self.width
        x = self.normalized(images)
        x = make_conv("stem_conv1", x.shape[-1], width, padding=0)(x)
        x = nn.relu(make_norm(width, "stem_norm1")(x, train=train))
        x = make_conv("stem_conv2", width, width, 4, strides=2)(x)
        x = nn.relu(make_norm(width, "stem_norm2")(x, train=train))
        x = make_conv("stem_conv3", width, width, 4, strides=2)(x)
        features = {"stage1/in": x}
        for n in range(self.blocks):
            name, ark_init = f"stage1_block{n}", self.ark_init
            block = Block(self.integrator, parts, ark_init=ark_init, name=name)
            x = self.run(block, x, train=train)
        features["stage1/out"] = x
        x = nn.relu(make_norm(width, "head_norm")(x, train=train))
        return self.classified(jnp.mean(x, (1, 2)), self.num_classes, features)


def _check_init(init: object, known: tuple[str, ...]) -> None:
    if init not in known:
        raise ValueError(f"unknown init {init!r}; use one of {', '.join(known)}.")
