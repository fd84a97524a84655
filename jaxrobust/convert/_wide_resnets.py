"""Names of PreAct and Wide ResNets in RobustBench and the repositories it draws on.

The networks of DeepMind (github.com/google-deepmind/deepmind-research,
adversarial_robustness) have names of their own; here they are those with
`same_padding`.
"""

from jaxrobust.convert._names import Names, join, mean_sparse
from jaxrobust.models import preact_resnet, wide_resnet

_BLOCK = {"norm1": "bn1", "conv1": "conv1", "norm2": "bn2", "conv2": "conv2"}
_DEEPMIND = {"norm1": "batchnorm_0", "norm2": "batchnorm_1", "shortcut": "shortcut"}
# Parts of single networks: MeanSparse, torchvision's squeeze and excitation, and
# activations that are learnt.
_SPARSE = {"sparse1": "meansparse_0", "sparse2": "meansparse_1"}
_SPARSE |= {"sparse_sum": "meansparse_2"}
_SQUEEZE = {"squeeze": "fc1", "excite": "fc2"}
_SQUEEZE = {f"squeeze_excite/{k}": f"se.{v}" for k, v in _SQUEEZE.items()}
_LEARNT = {f"activation/{name}": f"activation.{name}" for name in ("alpha", "beta")}
_DEEPMIND_ENDS = {"head_norm": "batchnorm", "classifier": "logits"}
# TRADES' network registers its first stage twice and runs one of them.
_UNUSED = {"sub_block1": "a second first stage that forward never calls"}
# Of github.com/tml-epfl/understanding-fast-adv-training and what came of it.
_FIRST_PARTS = {"model_preact_hl1": "other names of its stem and first norm"}

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
        stage, first, unused = "layer_{}.{}", 0, {}
    else:
        ends = {"stem": "conv1", "head_norm": "bn", "classifier": "linear"}
        unused = _FIRST_PARTS
        block = {**_BLOCK, "shortcut": "shortcut.0"}
        stage, first = "layer{}.{}", 1
    counts = preact_resnet.DEPTHS[model.depth]
    parts = Names(block).in_stages(stage, counts, first)
    return join([Names(ends, unused=unused), *parts])


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
    if model.mean_sparse:
        ends = join([ends, mean_sparse({"head_sparse": "meansparse_end"})])
        block = join([Names(block), mean_sparse(_SPARSE)])
    else:
        block = Names(block)
    if model.activation == "pssilu":
        ends, block = (join([part, Names(_LEARNT)]) for part in (ends, block))
    if model.squeeze:
        block = join([block, Names(_SQUEEZE)])
    counts = model.layers or ((model.depth - 4) // 6,) * 3
    return join([ends, *block.in_stages(stage, counts, first)])
