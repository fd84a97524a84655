"""The CIFAR ResNet of the prototype conformity loss (PCL).

Mustafa et al., "Adversarial Defense by Restricting the Hidden Space of Deep Neural
Networks", ICCV 2019, arXiv 1904.00887, as in its released code.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.array_types import Images
from jaxrobust.models import layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._residual import ConvNorm, ResidualBlock, run_stem, three_stages
from jaxrobust.models.layers import Features

BRANCHES = ("auxiliary", "stage1", "stage2", "stage3")
BOTTLENECK_DEPTH = 44  # from here on


class Branch(layers.Module):
    """An auxiliary branch of the paper: convolution, pool, dense (section 3.3).

    The release has none. 3x3 convolution, BatchNorm and ReLU at the channels of its
    input, global average pool, dense without nonlinearity.

    Attributes:
      size: of the result.
    """

    size: int

    @nn.compact
    def __call__(self, x: Features, *, train: bool = False) -> layers.Vectors:
        """Maps `[B, H, W, C]` to `[B, size]`."""
        layer = ConvNorm(x.shape[-1], 3, computing=self.computing, name="layer")
        pooled = jnp.mean(nn.relu(layer(x, train=train)), (1, 2))
        return self.dense(pooled, self.size, "dense")


class PCLResNet(layers.DeepNetwork):
    """Post-activation CIFAR ResNet with a 1024-d embedding before its logits.

    Images `[B, H, W, C]` to `Outputs`. 3x3 convolution, three stages (strides 1, 2, 2),
    average pool z, dense to x (no nonlinearity), dense to logits. `features` holds
    `stageK/out`, `pooled` (z, `[B, 256]` with bottlenecks, else `[B, 64]`), `embedding`
    (x, `[B, 1024]`), `penultimate` (the same) and what `branches` names.

    The release pools 8x8 and 16x16 windows, so it takes 32 px images only. Here the
    pools are global: equal at 32 px, and any other size works.

    Attributes:
      depth: 6n + 2; from 44 on the blocks are bottlenecks. The paper has 110.
      width: channels of the first stage's 3x3 convolutions.
      embedding_size: of x.
      branches: which intermediate features exist. `auxiliary`: max pool of the output
        of stage 2, feature `auxiliary` (in the release, where no loss uses it);
        `stage1`, `stage2`, `stage3`: a `Branch` on that stage's output, feature
        `branch_stage1` and so on.
      branch_size: of the paper's branches.
    """

    depth: int = 110
    width: int = 16
    embedding_size: int = 1024
    branches: tuple[str, ...] = ("auxiliary",)
    branch_size: int = 256

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        three_stages(self.depth, 2)
        branches = self.branches
        if isinstance(branches, str) or not set(branches) <= set(BRANCHES):
            raise ValueError(
                f"`branches` must be a tuple of {', '.join(BRANCHES)}, got "
                f"{branches!r}."
            )

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        depths = three_stages(self.depth, 2)
        bottleneck = self.depth >= BOTTLENECK_DEPTH
        x = self.normalized(images)
        x = run_stem(self, x, "cifar", self.width, nn.relu, train=train)
        x, features = self.run_stages(
            x, depths, ResidualBlock, self.width, bottleneck=bottleneck, train=train
        )
        for k in (1, 2, 3):
            if f"stage{k}" in self.branches:
                name = f"branch_stage{k}"
                branch = Branch(self.branch_size, name=name, computing=self.computing)
                features[name] = branch(features[f"stage{k}/out"], train=train)
        if "auxiliary" in self.branches:
            # Its gradient counts ties, which bfloat16 cannot from 256 on.
            wide = jnp.promote_types(features["stage2/out"].dtype, jnp.float32)
            features["auxiliary"] = jnp.max(features["stage2/out"].astype(wide), (1, 2))
        pooled = jnp.mean(x, (1, 2))
        embedding = self.dense(pooled, self.embedding_size, "embedding")
        features |= {"pooled": pooled, "embedding": embedding}
        return self.classified(embedding, features)
