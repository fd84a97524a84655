"""Networks by name."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxrobust._checks import nearest_match
from jaxrobust.models import (
    alexnet,
    cnn3,
    convnext,
    ibp_cnn,
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
from jaxrobust.models._computing import AS_USUAL, Computing
from jaxrobust.models.fpd import fpd_resnet, fpd_resnext

_TABLE: Mapping[str, Callable[..., nn.Module]] = {
    "ssp_cifar": ssp.SSPNet,
    "ssp_mnist": ssp.SSPMnist,
    "ssp_tinyimagenet": functools.partial(
        ssp.SSPNet, stages=4, blocks=10, num_classes=200
    ),
    "pcl_resnet": pcl_resnet.PCLResNet,
    "lenet5": lenet.LeNet,
    "lenet_sigmoid": functools.partial(lenet.LeNet, activation="sigmoid", pool="avg"),
    "cnn3": cnn3.CNN3,
    "ibp_cnn": ibp_cnn.IBPCNN,
    "vgg": vgg.VGG,
    "alexnet": alexnet.AlexNet,
    "resnet": resnet.ResNet,
    "resnet_cifar": resnet.ResNetCifar,
    "fpd_resnet": fpd_resnet,
    "fpd_resnext": fpd_resnext,
    "preact_resnet": preact_resnet.PreActResNet,
    "wide_resnet": wide_resnet.WideResNet,
    "convnext": convnext.ConvNeXt,
    "vit": vit.ViT,
    "swin": swin.Swin,
    "xcit": xcit.XCiT,
}


_COMPUTING = dataclasses.asdict(AS_USUAL)


def names() -> tuple[str, ...]:
    """Returns every name that `create` knows."""
    return tuple(_TABLE)


def create(name: str, **kwargs: Any) -> nn.Module:
    """Builds the network that is called so; `kwargs` are fields, see its class.

    `dtype`, `remat` and `loop_safe` are those of its field `computing`, which can be
    given as a whole, too.

    Returns:
      A Linen module: `init(key, x, train=False)`, `apply(variables, x, train=...)`.

    Raises:
      ValueError: for an unknown name (with the nearest match) or an impossible size.
      TypeError: for an unknown field (with the nearest match).
    """
    if name not in _TABLE:
        raise ValueError(f"unknown model {name!r}. {nearest_match(name, _TABLE)}")
    build = _TABLE[name]
    known, fields = _keywords(build), {}
    whole = kwargs.pop("computing", AS_USUAL)
    if not isinstance(whole, Computing):
        raise TypeError(f"`computing` must be a `models.Computing`, got {whole!r}.")
    computing: dict[str, Any] = {}
    for key, value in kwargs.items():
        if key not in known:
            raise TypeError(
                f"model {name!r} has no field {key!r}. {nearest_match(key, known)}"
            )
        # Every Linen module has a method `init`, so the field is called otherwise.
        own = computing if key in _COMPUTING else fields
        own["init_option" if key == "init" else key] = _hashable(value)
    return build(**fields, computing=dataclasses.replace(whole, **computing))


def defaults(name: str) -> dict[str, Any]:
    """Returns what the network that is called so can be given, with the defaults.

    None where there is none. ValueError for an unknown name (with the nearest match).
    """
    if name not in _TABLE:
        raise ValueError(f"unknown model {name!r}. {nearest_match(name, _TABLE)}")
    return _keywords(_TABLE[name])


def _keywords(build: Callable[..., nn.Module]) -> dict[str, Any]:
    """What a class, or a function for its class and its `**fields`, can be given."""
    signature = inspect.signature(build)
    known = {
        name: None if one.default is one.empty else one.default
        for name, one in signature.parameters.items()
    }
    if "fields" in known:
        known = _keywords(signature.return_annotation) | known
    renamed = {"init" if k == "init_option" else k: v for k, v in known.items()}
    hidden = ("fields", "parent", "name", "computing")
    return {k: v for k, v in renamed.items() if k not in hidden} | _COMPUTING


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
