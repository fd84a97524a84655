"""PC loss with logit constraints on CIFAR-10 (Li et al., AAAI 2021).

    python -m jaxrobust.main --config configs/pclc_cifar10.py:depth=56

Argument, all optional: model = resnet_cifar (depth 6n + 2, 20 to 110) or vgg (11, 13,
16, 19), depth, attack = none (the method) or fgsm, pgd ... (both losses on
attacked images), from = work directory or checkpoint that stands for the cross-entropy
phase, twin = standard trains the same network with cross-entropy beside it; `quick`
shrinks the run to seconds. The 150 + 150 epochs have not been run with this program.
`--config.eval.suite=pclc2021` attacks as the paper does.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import pclc


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the release's setting for a network."""
    options = common.parse_arg(
        arg, {"model": "resnet_cifar", "depth": 56, **pclc.ARGUMENTS}
    )
    config = pclc.photographs(options, "cifar10", 10)
    common.use_radius(config, "8/255", "2/255", steps=10)
    pclc.finish(config, options, width=4)
    return config
