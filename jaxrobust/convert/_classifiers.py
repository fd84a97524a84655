"""Names of the classifiers of the PC loss and of SSC-DM in their originals.

github.com/xinli0928/PC-LC (LeNet-5, CNN, VGG, CIFAR ResNet; the `_adv` files there have
the same names) and github.com/JunzMiao/SSC-DM (LeNet, AlexNet, and torchvision's
ResNets, whose names its sibling github.com/JunzMiao/RCCs uses as well).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxrobust.convert._names import Names, join, under_stages
from jaxrobust.models import alexnet, cnn3, lenet, resnet, vgg


def le_net(model: lenet.LeNet) -> Names:
    """Names of `LeNet5` (PC-LC), or with sigmoids of `LeNet` (SSC-DM)."""
    ours = ("conv1", "conv2", "dense1", "dense2", "classifier")
    if model.activation == "sigmoid":
        theirs = ("conv1.0", "conv2.0", "fc1.1", "fc2.0", "fc3.0")
    else:
        theirs = ("conv1", "conv2", "fc1", "fc2", "fc3")
    return Names(dict(zip(ours, theirs, strict=True)))


def cnn(model: cnn3.CNN3) -> Names:
    """Names of `CNN` (PC-LC)."""
    del model
    convolutions = {"conv1": "layer.0", "conv2": "layer.2", "conv3": "layer.5"}
    return Names({**convolutions, "dense1": "fc_layer.0", "classifier": "fc_layer.2"})


def vgg_net(model: vgg.VGG) -> Names:
    """Names of `VGG` (PC-LC): positions in one `Sequential`, pools included."""
    modules = {"dense1": "classifier.1", "classifier": "fc"}
    position = 0
    for k, convolutions in enumerate(vgg.DEPTHS[model.depth], 1):
        for n in range(1, convolutions + 1):
            modules[f"stage{k}_conv{n}"] = f"features.{position}"
            modules[f"stage{k}_norm{n}"] = f"features.{position + 1}"
            position += 3  # convolution, norm, ReLU
        position += 1  # the pool
    return Names(modules)


def alex_net(model: alexnet.AlexNet) -> Names:
    """Names of `AlexNet` (SSC-DM, torchvision)."""
    del model
    convolutions = {
        f"conv{n}": f"features.{k}" for n, k in enumerate((0, 3, 6, 8, 10), 1)
    }
    dense = {"dense1": "classifier.1", "dense2": "classifier.4"}
    return Names({**convolutions, **dense, "classifier": "classifier.6"})


def res_net(model: resnet.ResNet) -> Names:
    """Names of torchvision's ResNets (SSC-DM)."""
    ends = Names({**conv_norm("stem", "conv1", "bn1"), "classifier": "fc"})
    return residual_net(ends, resnet.DEPTHS[model.depth])


def cifar_res_net(model: resnet.ResNetCifar) -> Names:
    """Names of `ResNet` (PC-LC), whose shortcuts have no parameters."""
    ends = Names({**conv_norm("stem", "conv1", "bn1"), "classifier": "linear"})
    return residual_net(ends, ((model.depth - 2) // 6,) * 3)


def residual_net(ends: Names, blocks: tuple[int, ...]) -> Names:
    """Names of a network of `ResidualBlock`s, with `blocks` of them in each stage."""
    parts = {f"layer{n}": (f"conv{n}", f"bn{n}") for n in (1, 2, 3)}
    parts["shortcut"] = ("downsample.0", "downsample.1")
    block = join([Names(conv_norm(ours, *names)) for ours, names in parts.items()])
    return join([ends, *under_stages(block, "layer{}.{}", blocks)])


def conv_norm(ours: str, conv: str, norm: str) -> dict[str, str]:
    """Names of a `ConvNorm`."""
    return {f"{ours}/conv": conv, f"{ours}/norm": norm}


def image_shape(
    model: lenet.LeNet | cnn3.CNN3 | vgg.VGG, given: Mapping[str, np.ndarray]
) -> tuple[int, ...]:
    """Returns the images `[1, H, H, C]` for which weights were made.

    The first dense layer tells the side: VGG has another one for TinyImageNet. Entries
    that are missing, or fit no image, count as those of the original's data set.
    """
    if isinstance(model, vgg.VGG):
        conv, dense, channels = "features.0", "classifier.1", 8 * model.width
    elif isinstance(model, cnn3.CNN3):
        conv, dense, channels = "layer.0", "fc_layer.0", 4 * model.width
    else:
        modules = le_net(model).modules
        conv, dense, channels = modules["conv1"], modules["dense1"], 16
    kernel, matrix = given.get(f"{conv}.weight"), given.get(f"{dense}.weight")
    side, inputs = (32, 3) if isinstance(model, vgg.VGG) else (28, 1)
    if kernel is not None and kernel.ndim == 4:
        inputs = kernel.shape[1]
    if matrix is not None and matrix.ndim == 2:
        cells = math.isqrt(matrix.shape[1] // channels)
        side = _SIDES[type(model)](cells) if cells else side
    return (1, side, side, inputs)


# From the cells in a row that are flattened to the smallest side of such an image.
_SIDES: Mapping[type, Callable[[int], int]] = {
    lenet.LeNet: lambda cells: 2 * (2 * cells + 4),
    cnn3.CNN3: lambda cells: 2 * (2 * cells + 4) + 8,
    vgg.VGG: lambda cells: 32 * cells,
}
