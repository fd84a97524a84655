"""Names of `pcl_resnet` in its original, aamir-mustafa/pcl-adversarial-defense."""

from jaxrobust.convert._classifiers import conv_norm, residual_net
from jaxrobust.convert._names import Names, join, under
from jaxrobust.models import pcl_resnet


def net(model: pcl_resnet.PCLResNet) -> Names:
    """Names of the network; the release has none of the paper's branches."""
    ends = {**conv_norm("stem", "conv1", "bn1"), "embedding": "fc", "classifier": "fcf"}
    branch = Names({**conv_norm("layer", "conv", "bn"), "dense": "fc"})
    branches = [under(branch, f"branch_stage{k}", f"branch{k}") for k in (1, 2, 3)]
    return join([residual_net(Names(ends), ((model.depth - 2) // 6,) * 3), *branches])
