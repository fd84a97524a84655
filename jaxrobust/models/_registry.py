"""Networks by name."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxrobust._checks import nearest_match
from jaxrobust.models import (
    alexnet,
    cnn3,
    lenet,
    pcl_resnet,
    preact_resnet,
    resnet,
    resnet_cifar,
    ssp,
    vgg,
    wide_resnet,
)
from jaxrobust.models.fpd import fpd_resnet, fpd_resnext

# Classes, or functions that build one; `_fields` says what these take.
_TABLE: Mapping[str, Callable[..., nn.Module]] = {
    "ssp_cifar": ssp.SSPNet,
    "ssp_mnist": ssp.SSPMnist,
    "ssp_tinyimagenet": ssp.SSPNet,
    "pcl_resnet": pcl_resnet.PCLResNet,
    "lenet5": lenet.LeNet,
    "lenet_sigmoid": lenet.LeNet,
    "cnn3": cnn3.CNN3,
    "vgg": vgg.VGG,
    "alexnet": alexnet.AlexNet,
    "resnet": resnet.ResNet,
    "resnet_cifar": resnet_cifar.ResNetCifar,
    "fpd_resnet": fpd_resnet,
    "fpd_resnext": fpd_resnext,
    "preact_resnet": preact_resnet.PreActResNet,
    "wide_resnet": wide_resnet.WideResNet,
}
# In what a name differs from its class's defaults.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ssp_tinyimagenet": {"stages": 4, "blocks": 10, "num_classes": 200},
    "lenet_sigmoid": {"activation": "sigmoid", "pool": "avg"},
}


def names() -> tuple[str, ...]:
    """Returns every name that `create` knows."""
    return tuple(_TABLE)


def create(name: str, **kwargs: Any) -> nn.Module:
    """Builds a network.

    Args:
      name: one of `names()`.
      **kwargs: fields of the network; see its class.

    Returns:
      A Linen module: `init(key, x, train=False)`, `apply(variables, x, train=...)`.

    Raises:
      ValueError: for an unknown name (with the nearest match) or an impossible size.
      TypeError: for an unknown field (with the nearest match).
    """
    if name not in _TABLE:
        raise ValueError(f"unknown model {name!r}. {nearest_match(name, _TABLE)}")
    module = _TABLE[name]
    fields, values = _fields(module), dict(_DEFAULTS.get(name, {}))
    for key, value in kwargs.items():
        if key not in fields:
            raise TypeError(
                f"model {name!r} has no field {key!r}. {nearest_match(key, fields)}"
            )
        values[fields[key]] = _hashable(value)
    return module(**values)


def _fields(module: Callable[..., nn.Module]) -> dict[str, str]:
    """Keyword -> field; `init` alone differs, as every Linen module has a method so.

    Of a function its arguments and, where it takes any others, the fields of the class
    that it says it returns.
    """
    if not isinstance(module, type):
        signature = inspect.signature(module)
        own = {k: k for k, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD}
        if len(own) < len(signature.parameters):
            return {**_fields(signature.return_annotation), **own}
        return own
    assert dataclasses.is_dataclass(module)
    names = [field.name for field in dataclasses.fields(module) if field.init]
    keywords = {"init" if name == "init_option" else name: name for name in names}
    return {k: v for k, v in keywords.items() if k not in ("parent", "name")}


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
