"""A small convolutional network for benchmarks, in Flax and, the same, in torch.

Train it with the program, as any user's own network:

    python -m jaxrobust.main --config configs/pgd_cifar10.py
    with --config.model.name=benchmarks.small_cnn:build
"""

from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array

from jaxrobust import models
from jaxrobust.models import layers

CHANNELS = (32, 64, 64)
STRIDES = (2, 1, 2)


class SmallCNN(nn.Module):
    """Three 3x3 convolutions and two dense layers: images `[B, 32, 32, 3]` to logits.

    Attributes:
      num_classes: number of classes K.
      loop_safe: convolutions that stay fast in CPU loops.
    """

    num_classes: int = 10
    loop_safe: bool = True

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> models.Outputs:
        """Classifies images in [0, 1]."""
        del train  # nothing here depends on it
        x = (images - 0.5) * 4
        for k, (channels, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True)):
            conv = layers.Conv(
                channels,
                3,
                strides=stride,
                padding=1,
                computing=layers.Computing(loop_safe=self.loop_safe),
                name=f"conv{k}",
            )
            x = nn.relu(conv(x))
        x = nn.relu(nn.Dense(128, name="dense")(x.reshape(len(x), -1)))
        logits = nn.Dense(self.num_classes, name="classifier")(x)
        return models.Outputs(logits, {"penultimate": x}, None)


def build(num_classes: int = 10, loop_safe: bool = True) -> nn.Module:
    """Makes the network, for `--config.model.name=benchmarks.small_cnn:build`."""
    return SmallCNN(num_classes, loop_safe)


def to_torch(variables: Any) -> Any:
    """Returns the same network in torch, images `[B, 3, 32, 32]` in [0, 1]."""
    import torch  # pyright: ignore[reportMissingImports]

    params, parts, channels = variables["params"], [], 3
    for k, (out, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True)):
        conv = torch.nn.Conv2d(channels, out, 3, stride, 1)
        kernel = np.asarray(params[f"conv{k}"]["kernel"]).transpose(3, 2, 0, 1)
        _fill(conv, kernel, params[f"conv{k}"]["bias"])
        parts += [conv, torch.nn.ReLU()]
        channels = out
    dense, classifier = params["dense"], params["classifier"]
    side = 8
    # Torch flattens channels first, we flatten them last.
    kernel = np.asarray(dense["kernel"]).reshape(side, side, channels, -1)
    kernel = kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[-1], -1)
    hidden = torch.nn.Linear(side * side * channels, kernel.shape[0])
    _fill(hidden, kernel, dense["bias"])
    kernel = np.asarray(classifier["kernel"]).T
    last = torch.nn.Linear(*kernel.shape[::-1])
    _fill(last, kernel, classifier["bias"])
    body = torch.nn.Sequential(
        *parts, torch.nn.Flatten(), hidden, torch.nn.ReLU(), last
    )

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Any) -> Any:
            return self.body((x - 0.5) * 4)

    return Net().eval()


def _fill(layer: Any, weight: np.ndarray, bias: Any) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(weight)))
        layer.bias.copy_(torch.from_numpy(np.array(bias)))
