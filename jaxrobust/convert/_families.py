"""Which conversion belongs to which network."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from jaxrobust.convert import _classifiers, _fpd, _names, _ssp, _timm, _wide_resnets
from jaxrobust.models import (
    alexnet,
    cnn3,
    convnext,
    lenet,
    pcl_resnet,
    preact_resnet,
    resnet,
    ssp,
    swin,
    vgg,
    vit,
    wide_resnet,
    xcit,
)
from jaxrobust.models.fpd import FPD

ImageShape = tuple[int, ...]


class Family(NamedTuple):
    """What one kind of network needs: names of its parts and the images it is made for.

    Both may depend on the network's fields, the shape also on its state dict; it is
    None where nothing suggests one. `dialect` translates the names that other code has
    for the same parts.
    """

    names: Callable[[Any], _names.Names]
    input_shape: ImageShape | Callable[[Any, Mapping[str, Any]], ImageShape] | None
    dialect: Callable[[Collection[str]], _names.Dialect] = lambda _: ()


TABLE: Mapping[type[nn.Module], Family] = {
    ssp.SSPNet: Family(_ssp.net, (1, 32, 32, 3)),
    ssp.SSPMnist: Family(_ssp.mnist, (1, 28, 28, 1)),
    ssp.Block: Family(_ssp.block, None),
    ssp.Transition: Family(lambda _: _ssp.TRANSITION, None),
    pcl_resnet.PCLResNet: Family(_classifiers.pcl, (1, 32, 32, 3)),
    lenet.LeNet: Family(_classifiers.le_net, _classifiers.image_shape),
    cnn3.CNN3: Family(lambda _: _classifiers.CNN3, _classifiers.image_shape),
    vgg.VGG: Family(_classifiers.vgg_net, _classifiers.image_shape),
    alexnet.AlexNet: Family(lambda _: _classifiers.ALEXNET, (1, 64, 64, 3)),
    resnet.ResNet: Family(
        _classifiers.res_net, (1, 32, 32, 3), lambda _: _classifiers.KUANGLIU
    ),
    resnet.ResNetCifar: Family(_classifiers.cifar_res_net, (1, 32, 32, 3)),
    FPD: Family(_fpd.net, (1, 64, 64, 3)),
    preact_resnet.PreActResNet: Family(_wide_resnets.preact, (1, 32, 32, 3)),
    wide_resnet.WideResNet: Family(
        _wide_resnets.wide, (1, 32, 32, 3), lambda _: _wide_resnets.ROBUST_WRN
    ),
    convnext.ConvNeXt: Family(_timm.conv_next, (1, 224, 224, 3)),
    vit.ViT: Family(_timm.vision_transformer, _timm.vit_shape),
    swin.Swin: Family(_timm.swin_transformer, _timm.swin_shape, _timm.swin_dialect),
    xcit.XCiT: Family(_timm.x_cit, (1, 224, 224, 3), lambda _: _timm.XCIT),
}


def of(model: nn.Module) -> Family:
    """Returns the conversion of a network; TypeError if there is none."""
    if type(model) not in TABLE:
        known = ", ".join(kind.__name__ for kind in TABLE)
        raise TypeError(
            f"no conversion from torch for {type(model).__name__}; known: {known}."
        )
    return TABLE[type(model)]
