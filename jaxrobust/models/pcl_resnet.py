"""The CIFAR ResNet of the prototype conformity loss (PCL).

Mustafa et al., "Adversarial Defense by Restricting the Hidden Space of Deep Neural
Networks", ICCV 2019, arXiv 1904.00887, as in its released code.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models.layers import DType, Features

BRANCHES = ("auxiliary", "stage1", "stage2", "stage3")
EXPANSION = 4  # of a bottleneck block
BOTTLENECK_DEPTH = 44  # from here on


def _conv_init() -> layers.Initializer:
    """Returns N(0, sqrt(2 / (k k out)))."""
    return nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm; keeps the size at stride 1.

    Attributes:
      features: channels of the result.
      kernel: side of the kernel, odd.
      strides: of the convolution.
      dtype: to compute in.
      loop_safe: see `layers.make_conv`.
    """

    features: int
    kernel: int
    strides: int = 1
    dtype: DType = None
    loop_safe: bool = True

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to `[B, H/strides, W/strides, features]`."""
        conv = layers.make_conv(
            x.shape[-1],
            self.features,
            self.kernel,
            strides=self.strides,
            padding=self.kernel // 2,
            use_bias=False,
            kernel_init=_conv_init(),
            dtype=self.dtype,
            loop_safe=self.loop_safe,
            name="conv",
        )
        return layers.BatchNorm(dtype=self.dtype, name="norm")(conv(x), train=train)


class Block(nn.Module):
    """Post-activation residual block: two 3x3 convolutions, or a bottleneck.

    Attributes:
      features: channels of the 3x3 convolutions.
      bottleneck: 1x1, 3x3, 1x1 convolutions, the last to four times the channels.
      strides: of the first 3x3 convolution and the shortcut.
      dtype: to compute in.
      loop_safe: see `layers.make_conv`.
    """

    features: int
    bottleneck: bool = False
    strides: int = 1
    dtype: DType = None
    loop_safe: bool = True

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Features:
        """Maps `[B, H, W, C]` to `[B, H/strides, W/strides, out]`."""

        def part(features: int, kernel: int, strides: int, name: str) -> ConvNorm:
            return ConvNorm(
                features, kernel, strides, self.dtype, self.loop_safe, name=name
            )

        # (channels, kernel, strides) of each convolution.
        plan = [(self.features, 3, self.strides), (self.features, 3, 1)]
        if self.bottleneck:
            wide = EXPANSION * self.features
            plan = [(self.features, 1, 1), plan[0], (wide, 1, 1)]
        out = plan[-1][0]
        shortcut, h = x, x
        if self.strides != 1 or x.shape[-1] != out:
            shortcut = part(out, 1, self.strides, "shortcut")(x, train=train)
        for n, sizes in enumerate(plan, 1):
            h = part(*sizes, name=f"layer{n}")(h, train=train)
            if n < len(plan):
                h = nn.relu(h)
        return nn.relu(h + shortcut)


class Branch(nn.Module):
    """An auxiliary branch of the paper: convolution, pool, dense (section 3.3).

    The release has none. 3x3 convolution, BatchNorm and ReLU at the channels of its
    input, global average pool, dense without nonlinearity.

    Attributes:
      size: of the result.
      dtype: to compute in.
      loop_safe: see `layers.make_conv`.
    """

    size: int
    dtype: DType = None
    loop_safe: bool = True

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> Float[Array, "B D"]:
        """Maps `[B, H, W, C]` to `[B, size]`."""
        channels = x.shape[-1]
        layer = ConvNorm(channels, 3, 1, self.dtype, self.loop_safe, name="layer")
        pooled = jnp.mean(nn.relu(layer(x, train=train)), (1, 2))
        return layers.make_dense(channels, self.size, dtype=self.dtype, name="dense")(
            pooled
        )


class PCLResNet(nn.Module):
    """Post-activation CIFAR ResNet with a 1024-d embedding before its logits.

    Images `[B, H, W, C]` to `Outputs`. 3x3 convolution, three stages (strides 1, 2, 2),
    average pool z, dense to x (no nonlinearity), dense to logits. `features` holds
    `stageK/out`, `pooled` (z, `[B, 256]` with bottlenecks, else `[B, 64]`), `embedding`
    (x, `[B, 1024]`), `penultimate` (the same) and what `branches` names.

    The release pools 8x8 and 16x16 windows, so it takes 32 px images only. Here the
    pools are global: equal at 32 px, and any other size works.

    Attributes:
      depth: 6n + 2; from 44 on the blocks are bottlenecks. The paper has 110.
      num_classes: number of classes K.
      width: channels of the first stage's 3x3 convolutions.
      embedding_size: of x.
      branches: which intermediate features exist. `auxiliary`: max pool of the output
        of stage 2, feature `auxiliary` (in the release, where no loss uses it);
        `stage1`, `stage2`, `stage3`: a `Branch` on that stage's output, feature
        `branch_stage1` and so on.
      branch_size: of the paper's branches.
      mean: per channel, subtracted from the images.
      std: per channel, the images are divided by it.
      dtype: to compute in; parameters, statistics and logits stay float32.
      loop_safe: convolutions that stay fast in CPU loops; False allows forward mode.
    """

    depth: int = 110
    num_classes: int = 10
    width: int = 16
    embedding_size: int = 1024
    branches: tuple[str, ...] = ("auxiliary",)
    branch_size: int = 256
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: DType = None
    loop_safe: bool = True

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        layers.check_sizes(
            depth=self.depth,
            num_classes=self.num_classes,
            width=self.width,
            embedding_size=self.embedding_size,
            branch_size=self.branch_size,
        )
        if self.depth < 8 or (self.depth - 2) % 6:
            near = 6 * max(1, round((self.depth - 2) / 6)) + 2
            raise ValueError(
                f"`depth` must be 6n + 2 with n from 1, got {self.depth}; the nearest "
                f"is {near}."
            )
        branches = self.branches
        if isinstance(branches, str) or not set(branches) <= set(BRANCHES):
            raise ValueError(
                f"`branches` must be a tuple of {', '.join(BRANCHES)}, got "
                f"{branches!r}."
            )

    def blocks(self) -> int:
        """Returns the number of blocks per stage."""
        return (self.depth - 2) // 6

    def bottleneck(self) -> bool:
        """Says whether the blocks are bottlenecks."""
        return self.depth >= BOTTLENECK_DEPTH

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        options = {"dtype": self.dtype, "loop_safe": self.loop_safe}
        features: dict[str, Array] = {}
        x = layers.normalize(images, self.mean, self.std)
        x = nn.relu(ConvNorm(self.width, 3, name="stem", **options)(x, train=train))
        for k in (1, 2, 3):
            for n in range(self.blocks()):
                x = Block(
                    self.width * 2 ** (k - 1),
                    self.bottleneck(),
                    2 if k > 1 and n == 0 else 1,
                    name=f"stage{k}_block{n}",
                    **options,
                )(x, train=train)
            features[f"stage{k}/out"] = x
            if f"stage{k}" in self.branches:
                branch = Branch(self.branch_size, name=f"branch_stage{k}", **options)
                features[f"branch_stage{k}"] = branch(x, train=train)
        if "auxiliary" in self.branches:
            features["auxiliary"] = jnp.max(features["stage2/out"], (1, 2))
        pooled = jnp.mean(x, (1, 2))
        embedding = layers.make_dense(
            pooled.shape[-1], self.embedding_size, dtype=self.dtype, name="embedding"
        )(pooled)
        logits = layers.make_dense(
            self.embedding_size, self.num_classes, dtype=self.dtype, name="classifier"
        )(embedding)
        features |= {"pooled": pooled, "embedding": embedding}
        features["penultimate"] = embedding
        return Outputs(layers.as_logits(logits), features, None)
