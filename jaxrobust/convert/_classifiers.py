"""Names of the plain classifiers and CIFAR ResNets in their originals.

github.com/xinli0928/PC-LC (LeNet-5, CNN, VGG, CIFAR ResNet; the `_adv` files there have
the same names), github.com/JunzMiao/SSC-DM (LeNet, AlexNet, and torchvision's ResNets,
whose names its sibling github.com/JunzMiao/RCCs uses as well) and
github.com/aamir-mustafa/pcl-adversarial-defense (`pcl_resnet`).
"""

import math
from collections.abc import Mapping

import numpy as np

from jaxrobust.convert._names import Names, conv_norm, join, residual_block
from jaxrobust.models import cnn3, lenet, pcl_resnet, resnet, vgg


def _named(ours: str, theirs: str) -> Names:
    return Names(dict(zip(ours.split(), theirs.split(), strict=True)))


# `CNN` (PC-LC).
CNN3 = _named(
    "conv1   conv2   conv3   dense1     classifier",
    "layer.0 layer.2 layer.5 fc_layer.0 fc_layer.2",
)
# `AlexNet` (SSC-DM, torchvision).
ALEXNET = _named(
    "conv1 conv2 conv3 conv4 conv5 dense1 dense2 classifier",
    "features.0 features.3 features.6 features.8 features.10 "
    "classifier.1 classifier.4 classifier.6",
)


# ResNets of github.com/kuangliu/pytorch-cifar, and so of RobustBench.
KUANGLIU = (
    (r"^linear\.", "fc."),
    (r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample."),
)


def le_net(model: lenet.LeNet) -> Names:
    """Names of `LeNet5` (PC-LC), or with sigmoids of `LeNet` (SSC-DM)."""
    sigmoid = model.activation == "sigmoid"
    return _named(
        "conv1 conv2 dense1 dense2 classifier",
        "conv1.0 conv2.0 fc1.1 fc2.0 fc3.0" if sigmoid else "conv1 conv2 fc1 fc2 fc3",
    )


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


def res_net(model: resnet.ResNet) -> Names:
    """Names of torchvision's ResNets (SSC-DM)."""
    return _residual_net({"classifier": "fc"}, resnet.DEPTHS[model.depth])


def cifar_res_net(model: resnet.ResNetCifar) -> Names:
    """Names of `ResNet` (PC-LC), whose shortcuts have no parameters."""
    return _residual_net({"classifier": "linear"}, ((model.depth - 2) // 6,) * 3)


def pcl(model: pcl_resnet.PCLResNet) -> Names:
    """Names of the network; the release has none of the paper's branches."""
    branch = Names({**conv_norm("layer", "conv", "bn"), "dense": "fc"})
    branches = [branch.under(f"branch_stage{k}", f"branch{k}") for k in (1, 2, 3)]
    ends = {"embedding": "fc", "classifier": "fcf"}
    return join([_residual_net(ends, ((model.depth - 2) // 6,) * 3), *branches])


def _residual_net(ends: dict[str, str], blocks: tuple[int, ...]) -> Names:
    """Names of a network of `ResidualBlock`s, with `blocks` of them in each stage."""
    block = residual_block([(f"conv{n}", f"bn{n}") for n in (1, 2, 3)], "downsample")
    ends = {**conv_norm("stem", "conv1", "bn1"), **ends}
    return join([Names(ends), *block.in_stages("layer{}.{}", blocks)])


def image_shape(
    model: lenet.LeNet | cnn3.CNN3 | vgg.VGG, given: Mapping[str, np.ndarray]
) -> tuple[int, ...]:
    """Returns the images `[1, H, H, C]` for which weights were made.

    The first dense layer tells the side: VGG has another one for TinyImageNet. Entries
    that are missing, or fit no image, count as those of the original's data set.
    """
    # An image of so many cells in a row, flattened, has the side unit * cells + edge.
    unit, edge, side, inputs = 4, 8, 28, 1
    if isinstance(model, vgg.VGG):
        names, first, channels = vgg_net(model), "stage1_conv1", 8 * model.width
        unit, edge, side, inputs = 32, 0, 32, 3
    elif isinstance(model, cnn3.CNN3):
        names, first, channels, edge = CNN3, "conv1", 4 * model.width, 16
    else:
        names, first, channels = le_net(model), "conv1", 16
    kernel = given.get(f"{names.modules[first]}.weight")
    matrix = given.get(f"{names.modules['dense1']}.weight")
    if kernel is not None and kernel.ndim == 4:
        inputs = kernel.shape[1]
    if matrix is not None and matrix.ndim == 2:
        cells = math.isqrt(matrix.shape[1] // channels)
        side = unit * cells + edge if cells else side
    return (1, side, side, inputs)
