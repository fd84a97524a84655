"""Which conversion belongs to which network."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from jaxrobust.convert import _classifiers, _fpd, _names, _ssp, _wide_resnets
from jaxrobust.models import (
    alexnet,
    cnn3,
    lenet,
    pcl_resnet,
    preact_resnet,
    resnet,
    ssp,
    vgg,
    wide_resnet,
)
from jaxrobust.models.fpd import FPD

ImageShape = tuple[int, ...]


class Family(NamedTuple):
    """What one kind of network needs: names of its parts and the images it is made for.

    Both may depend on the network's fields, the shape also on its state dict; it is
    None where nothing suggests one.
    """

    names: Callable[[Any], _names.Names]
    input_shape: ImageShape | Callable[[Any, Mapping[str, Any]], ImageShape] | None


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
    resnet.ResNet: Family(_classifiers.res_net, (1, 32, 32, 3)),
    resnet.ResNetCifar: Family(_classifiers.cifar_res_net, (1, 32, 32, 3)),
    FPD: Family(_fpd.net, (1, 64, 64, 3)),
    preact_resnet.PreActResNet: Family(_wide_resnets.preact, (1, 32, 32, 3)),
    wide_resnet.WideResNet: Family(_wide_resnets.wide, (1, 32, 32, 3)),
}


def of(model: nn.Module) -> Family:
    """Returns the conversion of a network; TypeError if there is none."""
    if type(model) not in TABLE:
        known = ", ".join(kind.__name__ for kind in TABLE)
        raise TypeError(
            f"no conversion from torch for {type(model).__name__}; known: {known}."
        )
    return TABLE[type(model)]
