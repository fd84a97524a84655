"""Layers that the networks share: convolution, norms, normalisation, pooling."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.array_types import Images, Key
from jaxrobust.models._conv import conv_general_dilated as conv_general_dilated
from jaxrobust.models._images import check_images as check_images
from jaxrobust.models._images import normalize as normalize
from jaxrobust.models._linear import Conv as Conv
from jaxrobust.models._linear import Dense as Dense
from jaxrobust.models._linear import DType as DType
from jaxrobust.models._linear import Features as Features
from jaxrobust.models._linear import Initializer as Initializer
from jaxrobust.models._linear import add_bias as add_bias
from jaxrobust.models._norms import NORMS as NORMS
from jaxrobust.models._norms import BatchNorm as BatchNorm
from jaxrobust.models._norms import check_norm as check_norm
from jaxrobust.models._norms import make_norm as make_norm
from jaxrobust.models._outputs import Outputs

# Of networks whose originals have both.
ACTIVATIONS = {"relu": nn.relu, "swish": nn.swish}
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
    """A Linen module with fields for how it computes, which all networks share.

    Attributes:
      dtype: to compute in, such as `bfloat16`; by default that of input and parameters
        together. Parameters, statistics and logits stay float32.
      loop_safe: convolutions whose gradients stay fast in CPU loops; they have no
        forward mode, which False allows.
    """

    dtype: DType = None
    loop_safe: bool = True

    @property
    def computing(self) -> dict[str, Any]:
        """These fields, for the layers and blocks inside."""
        return {"dtype": self.dtype, "loop_safe": self.loop_safe}

    # The rest is for compact methods: each call makes a submodule and applies it.

    def convolve(
        self, x: Features, features: int, kernel: int, name: str, **options: Any
    ) -> Features:
        """Convolves; options as of `make_conv`."""
        fields = {**options, **self.computing, "name": name}
        return make_conv(x.shape[-1], features, kernel, **fields)(x)

    def batch_norm(self, x: Features, name: str, *, train: bool) -> Features:
        """Normalises over the batch."""
        return BatchNorm(dtype=self.dtype, name=name)(x, train=train)

    def dense(
        self, x: Float[Array, "B D"], features: int, name: str, **options: Any
    ) -> Float[Array, "B features"]:
        """Applies a dense layer; options as of `make_dense`."""
        fields = {**options, "dtype": self.dtype, "name": name}
        return make_dense(x.shape[-1], features, **fields)(x)


class DeepModule(Module, kw_only=True):
    """A module of blocks.

    Attributes:
      remat: compute blocks again in the backward pass, which keeps their inputs only
        and costs one more forward pass of each. Parameters and results are the same.
    """

    remat: bool = False

    def run(self, block: nn.Module, x: Features, *, train: bool) -> Features:
        """Returns `block(x, train=train)`, see `run_block`."""
        return run_block(block, x, train=train, remat=self.remat)

    def run_stage(
        self,
        x: Features,
        k: int,
        blocks: int,
        make: Callable[..., nn.Module],
        *,
        train: bool,
    ) -> Features:
        """Runs the blocks of stage `k`, from 1; all stages but that halve the size.

        Args:
          x: features `[B, H, W, C]`.
          k: which stage.
          blocks: how many there are.
          make: `(strides=, name=) -> block`.
          train: mode.
        """
        for n in range(blocks):
            strides = 2 if k > 1 and n == 0 else 1
            block = make(strides=strides, name=f"stage{k}_block{n}")
            x = self.run(block, x, train=train)
        return x


class Network(Module, kw_only=True):
    """A classifier of images; all have a field `num_classes`, the number of classes K.

    Attributes:
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the sizes among the fields."""
        super().__post_init__()
        names = (field.name for field in dataclasses.fields(self))
        check_sizes(**{n: getattr(self, n) for n in names if n in _SIZES})

    def normalized(self, images: Images) -> Images:
        """Returns the images as the first layer gets them."""
        return normalize(images, self.mean, self.std)

    def classified(
        self,
        x: Float[Array, "B D"],
        num_classes: int,
        features: dict[str, Array],
        **options: Any,
    ) -> Outputs:
        """Returns the logits of x, the penultimate vectors, by a last dense layer."""
        logits = self.dense(x, num_classes, "classifier", **options)
        return Outputs(as_logits(logits), {**features, "penultimate": x}, None)


class DeepNetwork(DeepModule, Network, kw_only=True):
    """A classifier of images that is made of blocks."""


def check_activation(name: object) -> None:
    """Raises ValueError unless `name` is one of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"`activation` must be 'relu' or 'swish', got {name!r}.")


def as_logits(x: Float[Array, "B K"]) -> Float[Array, "B K"]:
    """Widens to at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def torch_uniform(fan_in: int, slope: float = math.sqrt(5)) -> Initializer:
    """Kaiming-uniform of leaky-ReLU slope: U(+-sqrt(6 / ((1 + slope^2) fan_in)))."""
    bound = math.sqrt(6 / ((1 + slope**2) * fan_in))

    def init(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def unit_uniform(key: Key, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
    """U(0, 1), sspnet's start of BatchNorm scales."""
    return jax.random.uniform(key, shape, dtype)


def scaled(init: Initializer, factor: float) -> Initializer:
    """Returns an initialiser `factor` times as large."""
    return lambda key, shape, dtype=jnp.float32: factor * init(key, shape, dtype)


def make_conv(
    channels_in: int,
    features: int,
    kernel: int,
    *,
    strides: int = 1,
    padding: int | tuple[int, int] = 0,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    groups: int = 1,
    dtype: DType = None,
    loop_safe: bool = True,
    name: str | None = None,
) -> Conv:
    """Makes a square convolution with torch's initial values, U(+-1/sqrt(fan_in)).

    Args:
      channels_in: channels of the input, for the initial values.
      features: channels of the result.
      kernel: side of the kernel.
      strides: of both axes.
      padding: zeros on each side, or before and after both axes.
      use_bias: add a bias.
      kernel_init: in place of torch's.
      groups: of channels that do not meet.
      dtype: as in `Module`, and so is `loop_safe`.
      loop_safe: see there.
      name: of the submodule.
    """
    fan_in = kernel * kernel * channels_in // groups
    return Conv(
        features,
        kernel,
        kernel_init or torch_uniform(fan_in),
        torch_uniform(fan_in) if use_bias else None,
        strides,
        (padding, padding) if isinstance(padding, int) else padding,
        groups,
        dtype,
        loop_safe,
        name=name,
    )


def make_dense(
    channels_in: int,
    features: int,
    *,
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    dtype: DType = None,
    name: str | None = None,
) -> Dense:
    """Makes a dense layer with torch's initial values.

    Args:
      channels_in: size of the input, for the initial values.
      features: size of the result.
      kernel_init: by default torch's, U(+-1/sqrt(channels_in)).
      bias_init: likewise.
      dtype: as in `Module`.
      name: of the submodule.
    """
    return Dense(
        features,
        kernel_init or torch_uniform(channels_in),
        bias_init or torch_uniform(channels_in),
        dtype,
        name=name,
    )


def run_block(
    block: nn.Module, x: Features, *, train: bool, remat: bool = False
) -> Features:
    """Returns `block(x, train=train)`; call inside a module's compact method.

    Args:
      block: a submodule.
      x: features `[B, H, W, C]`.
      train: mode.
      remat: keep only `x` for the backward pass and compute the block again there,
        which costs one more forward pass of it. Parameters and results are the same.
    """

    def run(block: Any, x: Features) -> Features:
        return block(x, train=train)

    return (nn.remat(run) if remat else run)(block, x)


def padding(kernel: int, strides: int, same: bool) -> int | tuple[int, int]:
    """Returns what keeps the size of an image of an odd kernel that moves by `strides`.

    Torch's is the same on both sides. TensorFlow's, with `same`, gives a 3x3 kernel
    that moves by 2 its one row of zeros after the image; the side is a multiple of 2.
    """
    if not same:
        return kernel // 2
    total = max(kernel - strides, 0)
    return total // 2, total - total // 2


def check_sizes(**sizes: object) -> None:
    """Raises ValueError, naming the argument, unless all are integers above 0."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be an integer of at least 1, got {value!r}."
            )
