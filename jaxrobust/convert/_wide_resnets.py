"""Names of PreAct and Wide ResNets in RobustBench and the repositories it draws on."""

from jaxrobust.convert._names import Names, join, under
from jaxrobust.models import preact_resnet, wide_resnet

_BLOCK = {"norm1": "bn1", "conv1": "conv1", "norm2": "bn2", "conv2": "conv2"}


def preact(model: preact_resnet.PreActResNet) -> Names:
    """Names of `PreActResNet` (kuangliu/pytorch-cifar, locuslab/robust_overfitting)."""
    block = Names({**_BLOCK, "shortcut": "shortcut.0"})
    blocks = [
        under(block, f"stage{k}_block{n}", f"layer{k}.{n}")
        for k, count in enumerate(preact_resnet.DEPTHS[model.depth], 1)
        for n in range(count)
    ]
    ends = Names({"stem": "conv1", "head_norm": "bn", "classifier": "linear"})
    return join([ends, *blocks])


def wide(model: wide_resnet.WideResNet) -> Names:
    """Names of `WideResNet` (xternalz/WideResNet-pytorch, yaodongyu/TRADES)."""
    block = Names({**_BLOCK, "shortcut": "convShortcut"})
    blocks = [
        under(block, f"stage{k}_block{n}", f"block{k}.layer.{n}")
        for k in (1, 2, 3)
        for n in range((model.depth - 4) // 6)
    ]
    ends = Names({"stem": "conv1", "head_norm": "bn1", "classifier": "fc"})
    return join([ends, *blocks])
