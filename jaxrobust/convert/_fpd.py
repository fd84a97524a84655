"""Names of FPD in its original, github.com/GuanlinLee/FPD-for-Adversarial-Robustness.

The undefended ResNet is that of the release's `models.py`, which has a layer of the
decoder that it never uses.
"""

from jaxrobust.convert._names import Names, join, under, under_stages
from jaxrobust.models.fpd import FPD, Encoder

_RESNET_BLOCK = {
    **{f"layer{n}/conv": f"group1.conv{n}" for n in (1, 2, 3)},
    **{f"layer{n}/norm": f"group1.bn{n}" for n in (1, 2, 3)},
    "shortcut/conv": "downsample.0",
    "shortcut/norm": "downsample.1",
}
_RESNEXT_BLOCK = {
    **{f"layer{n}/conv": f"split_transforms.{3 * n - 3}" for n in (1, 2, 3)},
    **{f"layer{n}/norm": f"split_transforms.{3 * n - 2}" for n in (1, 2, 3)},
    "shortcut/conv": "shortcut.0",
    "shortcut/norm": "shortcut.1",
}
_RESNET_ENDS = {
    "encoder/stem/conv": "group1.conv1",
    "encoder/stem/norm": "group1.bn1",
    "classifier": "group2.fc",
}
_RESNEXT_ENDS = {
    "encoder/stem/conv": "conv1.0",
    "encoder/stem/norm": "conv1.1",
    "classifier": "fc",
}
_DECODER = {
    "top": "toplayer",
    "lateral_c4": "latlayer1",
    "lateral_c3": "latlayer2",
    "lateral_c2": "latlayer3",
    "smooth": "smooth3",
    **{f"up{n}": f"trans_conv.{n - 1}" for n in (1, 2, 3)},
}


def net(model: FPD) -> Names:
    """Names of FPD on the ResNets and ResNeXts, and of the undefended ResNets.

    Raises:
      TypeError: for another encoder.
    """
    encoder = model.encoder
    if not isinstance(encoder, Encoder):
        raise TypeError(
            f"no conversion from torch for FPD on {type(encoder).__name__}; known: "
            "fpd_resnet, fpd_resnext."
        )
    resnet = encoder.cardinality == 1
    block = Names(_RESNET_BLOCK if resnet else _RESNEXT_BLOCK)
    stage, first = ("layer{}.{}", 1) if resnet else ("conv{}.{}", 2)
    stages = join(under_stages(block, stage, encoder.layers, first))
    ends = Names(_RESNET_ENDS if resnet else _RESNEXT_ENDS)
    decoder = under(Names(_DECODER), "decoder", "")
    if not model.restoration:
        decoder = Names({}, unused={"toplayer": "of the decoder"})
    return join([ends, under(stages, "encoder", ""), decoder])
