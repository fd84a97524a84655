"""Names of `pcl_resnet` in its original, aamir-mustafa/pcl-adversarial-defense."""

from jaxrobust.convert._names import Names, join, under
from jaxrobust.models import pcl_resnet


def _pair(ours: str, conv: str, norm: str) -> Names:
    return Names({f"{ours}/conv": conv, f"{ours}/norm": norm})


def net(model: pcl_resnet.PCLResNet) -> Names:
    """Names of the network; the release has none of the paper's branches."""
    parts = [_pair(f"layer{n}", f"conv{n}", f"bn{n}") for n in (1, 2, 3)]
    block = join([*parts, _pair("shortcut", "downsample.0", "downsample.1")])
    blocks = [
        under(block, f"stage{k}_block{n}", f"layer{k}.{n}")
        for k in (1, 2, 3)
        for n in range(model.blocks())
    ]
    branch = join([_pair("layer", "conv", "bn"), Names({"dense": "fc"})])
    branches = [under(branch, f"branch_stage{k}", f"branch{k}") for k in (1, 2, 3)]
    ends = Names({"embedding": "fc", "classifier": "fcf"})
    return join([_pair("stem", "conv1", "bn1"), ends, *blocks, *branches])
