"""Between jaxrobust and other libraries; each is imported where it is asked for.

bridges.foolbox.model(logits_fn)              a network of ours for Foolbox
bridges.foolbox.attack('LinfPGD', steps=20)   an attack of Foolbox like one of ours
bridges.art.classifier(logits_fn, shape)      a network of ours for ART
bridges.art.attack(FastGradientMethod)        an attack of ART like one of ours
bridges.art.black_box(estimator)              an estimator of ART as a black box
bridges.torch_model(module), .numpy_model(function)    a black box of PyTorch or NumPy

A black box is `x -> logits` for attacks that need no gradient. An attack of another
library runs on the host: call it with arrays, or name it in a suite, outside of jit.
"""

import importlib
from typing import Any

from jaxrobust.bridges.black_box import numpy_model as numpy_model
from jaxrobust.bridges.black_box import torch_model as torch_model

_LIBRARIES = ("art", "foolbox")


def __getattr__(name: str) -> Any:
    if name in _LIBRARIES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
