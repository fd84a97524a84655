"""Names of PreAct and Wide ResNets in RobustBench and the repositories it draws on.

The networks of DeepMind (github.com/google-deepmind/deepmind-research,
adversarial_robustness) have names of their own; here they are those with
`same_padding`.
"""

from jaxrobust.convert._names import Names, join
from jaxrobust.models import preact_resnet, wide_resnet

_BLOCK = {"norm1": "bn1", "conv1": "conv1", "norm2": "bn2", "conv2": "conv2"}
_DEEPMIND = {"norm1": "batchnorm_0", "norm2": "batchnorm_1", "shortcut": "shortcut"}
_DEEPMIND_ENDS = {"head_norm": "batchnorm", "classifier": "logits"}
# TRADES' network registers its first stage twice and runs one of them.
_UNUSED = {"sub_block1": "a second first stage that forward never calls"}

# The one whose stages differ in more than a factor (github.com/HanxunH/RobustWRN).
ROBUST_WRN = (
    (r"^stem_conv\.", "conv1."),
    (r"^blocks\.(\d)\.", lambda found: f"block{int(found[1]) + 1}."),
)


def preact(model: preact_resnet.PreActResNet) -> Names:
    """Names of `PreActResNet` (kuangliu/pytorch-cifar, locuslab/robust_overfitting)."""
    if model.same_padding:
        ends = {"stem": "conv_2d", **_DEEPMIND_ENDS}
        block = {**_DEEPMIND, "conv1": "conv_2d_1", "conv2": "conv_2d_2"}
        stage, first = "layer_{}.{}", 0
    else:
        ends = {"stem": "conv1", "head_norm": "bn", "classifier": "linear"}
        block = {**_BLOCK, "shortcut": "shortcut.0"}
        stage, first = "layer{}.{}", 1
    counts = preact_resnet.DEPTHS[model.depth]
    return join([Names(ends), *Names(block).in_stages(stage, counts, first)])


def wide(model: wide_resnet.WideResNet) -> Names:
    """Names of `WideResNet` (xternalz/WideResNet-pytorch, yaodongyu/TRADES)."""
    if model.same_padding:
        ends = Names({"stem": "init_conv", **_DEEPMIND_ENDS})
        block = {**_DEEPMIND, "conv1": "conv_0", "conv2": "conv_1"}
        stage, first = "layer.{}.block.{}", 0
    else:
        modules = {"stem": "conv1", "head_norm": "bn1", "classifier": "fc"}
        ends = Names(modules, unused=_UNUSED)
        block = {**_BLOCK, "shortcut": "convShortcut"}
        stage, first = "block{}.layer.{}", 1
    counts = ((model.depth - 4) // 6,) * 3
    return join([ends, *Names(block).in_stages(stage, counts, first)])
