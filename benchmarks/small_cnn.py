"""A small convolutional network for benchmarks, in Flax and, the same, in torch.

Train it with the program, as any user's own network:

    python -m jaxrobust.main --config configs/pgd_cifar10.py \\
        --config.model.name=benchmarks.small_cnn:build ...
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
            conv = layers.make_conv(
                x.shape[-1],
                channels,
                3,
                strides=stride,
                padding=1,
                loop_safe=self.loop_safe,
                name=f"conv{k}",
            )
            x = nn.relu(conv(x))
        x = nn.relu(nn.Dense(128, name="dense")(x.reshape(len(x), -1)))
        logits = nn.Dense(self.num_classes, name="classifier")(x)
        return models.Outputs(logits, {"penultimate": x}, None)


def build(num_classes: int = 10, loop_safe: bool = True) -> nn.Module:
    """Makes the network, for `--config.model.name=benchmarks.small_cnn:build`."""
    return SmallCNN(num_classes, loop_safe)
