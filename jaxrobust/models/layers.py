"""Layers that the networks share, and the modules that networks are made as."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrobust._checks import check_images
from jaxrobust._conv import Features as Features
from jaxrobust._conv import conv_general_dilated as conv_general_dilated
from jaxrobust.array_types import Images
from jaxrobust.models._computing import AS_USUAL as AS_USUAL
from jaxrobust.models._computing import Computing as Computing
from jaxrobust.models._computing import DType as DType
from jaxrobust.models._linear import Conv as Conv
from jaxrobust.models._linear import Dense as Dense
from jaxrobust.models._linear import Initializer as Initializer
from jaxrobust.models._linear import add_bias as add_bias
from jaxrobust.models._linear import convolution as convolution
from jaxrobust.models._linear import torch_uniform as torch_uniform
from jaxrobust.models._norms import NORMS as NORMS
from jaxrobust.models._norms import BatchNorm as BatchNorm
from jaxrobust.models._norms import GroupNorm as GroupNorm
from jaxrobust.models._norms import check_norm as check_norm
from jaxrobust.models._outputs import Outputs

Vectors = Float[Array, "B D"]

# Fields of networks that count something.
_SIZES = (
    "num_classes",
    "width",
    "blocks",
    "stages",
    "embedding_size",
    "branch_size",
    "pyramid",
)


class Module(nn.Module, kw_only=True):
    """A Linen module whose layers compute as it does.

    Attributes:
      computing: in which precision, and how backward passes and convolutions run.
    """

    computing: Computing = AS_USUAL

    @property
    def recomputes(self) -> bool:
        """Whether there are blocks that `computing.remat` computes again."""
        return False

    # The rest is for compact methods: each call makes a submodule and applies it.

    def convolve(
        self, x: Features, features: int, kernel: int, name: str, **options: Any
    ) -> Features:
        """Convolves; options are fields of `Conv`."""
        return Conv(features, kernel, name=name, **options, computing=self.computing)(x)

    def batch_norm(self, x: Features, name: str, *, train: bool) -> Features:
        """Normalises over the batch."""
        return BatchNorm(self.computing, name=name)(x, train=train)

    def dense(self, x: Vectors, features: int, name: str, **options: Any) -> Vectors:
        """Applies a dense layer; options are fields of `Dense`."""
        return Dense(features, name=name, **options, computing=self.computing)(x)


class DeepModule(Module, kw_only=True):
    """A module of blocks."""

    @property
    def recomputes(self) -> bool:
        """Whether there are blocks that `computing.remat` computes again: yes."""
        return True

    def run_stage(
        self,
        x: Features,
        k: int,
        blocks: int,
        make: Callable[..., nn.Module],
        features: int,
        *,
        train: bool,
        **fields: Any,
    ) -> Features:
        """Runs the blocks of stage `k`, from 1; all stages but that halve the size.

        `make` is the class of the blocks, which have `features` channels; `fields` are
        others of theirs.
        """
        for n in range(blocks):
            block = make(
                features,
                strides=2 if k > 1 and n == 0 else 1,
                name=f"stage{k}_block{n}",
                **fields,
                computing=self.computing,
            )
            x = run_block(block, x, train=train, remat=self.computing.remat)
        return x

    def run_stages(
        self,
        x: Features,
        depths: Sequence[int],
        make: Callable[..., nn.Module],
        width: int,
        **options: Any,
    ) -> tuple[Features, dict[str, Array]]:
        """Runs stages of `depths` blocks; each has twice the channels of the last.

        `width` are those of the first; for the options see `run_stage`. Returns the
        last result, and all as `stage1/out` and so on.
        """
        results: dict[str, Array] = {}
        for k, blocks in enumerate(depths, 1):
            x = self.run_stage(x, k, blocks, make, width * 2 ** (k - 1), **options)
            results[f"stage{k}/out"] = x
        return x, results


class Network(Module, kw_only=True):
    """A classifier of images.

    Attributes:
      num_classes: number of classes K.
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
    """

    num_classes: int = 10
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks sizes and the rate of dropout among the fields."""
        super().__post_init__()
        names = {field.name for field in dataclasses.fields(self)}
        check_sizes(**{name: getattr(self, name) for name in _SIZES if name in names})
        rate = getattr(self, "dropout", 0)
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {rate!r}.")
        if self.computing.remat and not self.recomputes:
            raise ValueError(
                f"`remat`: {type(self).__name__} has no blocks to compute again; leave "
                "it False."
            )

    def normalized(self, images: Images, at_least: int = 1) -> Images:
        """Returns images, of sides from `at_least` on, as the first layer gets them."""
        check_images(images, "images", least=at_least, who=type(self).__name__)
        return normalize(images, self.mean, self.std)

    def classified(
        self, x: Vectors, features: dict[str, Array], **options: Any
    ) -> Outputs:
        """Returns the logits of x, the penultimate vectors, by a last dense layer."""
        logits = self.dense(x, self.num_classes, "classifier", **options)
        return Outputs(as_logits(logits), {**features, "penultimate": x}, None)


class DeepNetwork(DeepModule, Network, kw_only=True):
    """A classifier of images that is made of blocks."""


def as_logits(x: Float[Array, "B K"]) -> Float[Array, "B K"]:
    """Widens to at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def flatten(x: Features) -> Vectors:
    """Flattens `[B, H, W, C]` in torch's order: channel, row, column."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def dropout(module: nn.Module, x: Vectors, rate: float, train: bool) -> Vectors:
    """Drops entries in train mode where the caller gives a `dropout` key.

    Train mode without a key (an attack on batch statistics, say) drops nothing.
    """
    active = train and module.has_rng("dropout")
    return nn.Dropout(rate, deterministic=not active)(x)


def run_block(
    block: nn.Module, x: Features, *, train: bool, remat: bool = False
) -> Features:
    """Returns `block(x, train=train)`; call inside a module's compact method.

    `x` are features `[B, H, W, C]`, and `remat` is as in `Computing`.
    """

    def run(block: Any, x: Features) -> Features:
        return block(x, train=train)

    return (nn.remat(run) if remat else run)(block, x)


def check_sizes(**sizes: object) -> None:
    """Raises ValueError, naming the argument, unless all are integers above 0."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be an integer of at least 1, got {value!r}."
            )


def check_one_of(field: str, value: object, known: Iterable[Any]) -> None:
    """Raises ValueError, naming the field, unless its value is one of the known."""
    known = list(known)
    if value not in known:
        *first, last = map(repr, known)
        raise ValueError(
            f"`{field}` must be {', '.join(first)} or {last}, got {value!r}."
        )


def normalize(
    x: Images, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Images:
    """Returns (x - mean) / std per channel; None leaves that part out."""
    if mean is not None:
        x = x - _per_channel("mean", mean, x)
    if std is not None:
        scale = _per_channel("std", std, x)
        if not min(std) > 0:
            raise ValueError(f"`std` must be above 0, got {std}.")
        x = x / scale
    return x


def _per_channel(name: str, values: Any, x: Images) -> jnp.ndarray:
    channels = x.shape[-1]
    array = np.asarray(values)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(
            f"`{name}` must be a tuple of {channels} numbers, one per channel, got "
            f"{values!r}."
        )
    if len(array) not in (1, channels):
        raise ValueError(
            f"`{name}` has {len(array)} values, the images {channels} channels: give "
            f"a tuple of {channels}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got {values}.")
    return jnp.asarray(values, x.dtype).reshape(1, 1, 1, -1)
