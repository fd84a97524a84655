"""Wide ResNet for 32 px images.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146, in the
form that TRADES (Zhang et al., ICML 2019) and RobustBench use; with swish and
TensorFlow's padding that of Gowal et al. 2020, arXiv 2010.03593.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.array_types import Images
from jaxrobust.models import _variants, layers
from jaxrobust.models._outputs import Outputs
from jaxrobust.models._residual import HE_FAN_OUT, three_stages
from jaxrobust.models.preact_resnet import ACTIVATIONS, PreActBlock

WIDE_ACTIVATIONS = (*ACTIVATIONS, "pssilu")


class WideResNet(layers.DeepNetwork):
    """WRN-depth-width: images `[B, H, W, C]` to `Outputs`.

    Attributes:
      depth: 6n + 4, n blocks in each of three stages.
      width: factor of the channels 16, 32, 64.
      channels: of the three stages, where they are not those: (320, 640, 512) for the
        WRN-34-R of Huang et al., NeurIPS 2021, arXiv 2110.03825.
      layers: blocks of the three stages, where they do not follow from the depth:
        (30, 31, 10) for the Ra-WRN-70-16 of Peng et al., "Robust Principles", BMVC
        2023, arXiv 2308.16258, which has squeeze and excitation as well.
      stem: channels of the first convolution.
      squeeze: ratio of squeeze and excitation in blocks, 0 for none.
      dropout: rate inside blocks.
      activation: `relu`, `swish`, or `pssilu`, whose parameters are learnt.
      same_padding: as of `PreActResNet`.
      mean_sparse: features near their mean become the mean (MeanSparse).
      unit_head: the logits are cosines, of unit vectors (hypersphere embedding).
      per_image: images are normalised by their own mean and deviation (as the MMA
        training of Ding et al., ICLR 2020, arXiv 1812.02637, does).
    """

    depth: int = 28
    width: int = 10
    channels: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    stem: int = 16
    squeeze: float = 0.0
    dropout: float = 0.0
    activation: str = "relu"
    same_padding: bool = False
    mean_sparse: bool = False
    unit_head: bool = False
    per_image: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        three_stages(self.depth, 4)
        layers.check_one_of("activation", self.activation, WIDE_ACTIVATIONS)
        for name in ("channels", "layers"):
            given = getattr(self, name)
            if given and len(given) != 3:
                raise ValueError(
                    f"`{name}` must be those of three stages, got {given}."
                )
            layers.check_sizes(**{f"{name}[{k}]": n for k, n in enumerate(given)})
        layers.check_sizes(stem=self.stem)
        if not 0 <= self.squeeze <= 1:
            raise ValueError(f"`squeeze` must lie in [0, 1], got {self.squeeze}.")

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs:
        """Classifies images `[B, H, W, C]` in [0, 1]."""
        x = self.normalized(images)
        x = _variants.standardized(x) if self.per_image else x
        options = {"padding": 1, "use_bias": False, "kernel_init": HE_FAN_OUT}
        x = self.convolve(x, self.stem, 3, "stem", **options)
        fields = {"activation": self.activation, "same_padding": self.same_padding}
        fields |= {"mean_sparse": self.mean_sparse, "squeeze": self.squeeze}
        fields |= {"kernel_init": HE_FAN_OUT, "dropout": self.dropout, "train": train}
        channels = self.channels or [16 * self.width * 2**k for k in range(3)]
        features = {}
        depths = self.layers or three_stages(self.depth, 4)
        for k, blocks in enumerate(depths, 1):
            wide = channels[k - 1]
            x = self.run_stage(x, k, blocks, PreActBlock, wide, **fields)
            features[f"stage{k}/out"] = x
        x = self.batch_norm(x, "head_norm", train=train)
        x = _variants.MeanSparse(name="head_sparse")(x) if self.mean_sparse else x
        x = jnp.mean(_variants.activation(self.activation)(x), (1, 2))
        if self.unit_head:
            x = _variants.unit(x)
            head = _variants.UnitDense(
                self.num_classes, self.computing, name="classifier"
            )
            logits = layers.as_logits(head(x))
            return Outputs(logits, {**features, "penultimate": x}, None)
        # As in the original: nothing favours a class at the start.
        return self.classified(x, features, bias_init=nn.initializers.zeros)
