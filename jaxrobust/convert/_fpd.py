"""Names of FPD in its original, github.com/GuanlinLee/FPD-for-Adversarial-Robustness.

The undefended ResNet is that of the release's `models.py`, which has a layer of the
decoder that it never uses.
"""

from jaxrobust.convert._names import Names, conv_norm, join, residual_block
from jaxrobust.models.fpd import FPD, Encoder

_RESNET_BLOCK = residual_block(
    [(f"group1.conv{n}", f"group1.bn{n}") for n in (1, 2, 3)], "downsample"
)
_RESNEXT_BLOCK = residual_block(
    [(f"split_transforms.{n}", f"split_transforms.{n + 1}") for n in (0, 3, 6)],
    "shortcut",
)
_RESNET_STEM = conv_norm("encoder/stem", "group1.conv1", "group1.bn1")
_RESNEXT_STEM = conv_norm("encoder/stem", "conv1.0", "conv1.1")
_DECODER = {
    "top": "toplayer",
    "lateral_c4": "latlayer1",
    "lateral_c3": "latlayer2",
    "lateral_c2": "latlayer3",
    "smooth": "smooth3",
    **{f"up{n}": f"trans_conv.{n - 1}" for n in (1, 2, 3)},
}


def net(model: FPD) -> Names:
    """Names of FPD on the ResNets and ResNeXts, and of the undefended ResNets."""
    encoder = model.encoder
    if not isinstance(encoder, Encoder):
        raise TypeError(
            f"no conversion from torch for FPD on {type(encoder).__name__}; known: "
            "fpd_resnet, fpd_resnext."
        )
    if encoder.cardinality == 1:
        ends = Names({**_RESNET_STEM, "classifier": "group2.fc"})
        stages = _RESNET_BLOCK.in_stages("layer{}.{}", encoder.layers)
    else:
        ends = Names({**_RESNEXT_STEM, "classifier": "fc"})
        stages = _RESNEXT_BLOCK.in_stages("conv{}.{}", encoder.layers, 2)
    decoder = Names(_DECODER).under("decoder", "")
    if not model.restoration:
        decoder = Names({}, unused={"toplayer": "of the decoder"})
    return join([ends, join(stages).under("encoder", ""), decoder])
