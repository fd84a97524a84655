"""SSC-DM on TinyImageNet: ResNets in their ImageNet form, structure of the batch.

    python -m jaxrobust.main --config configs/ssc_tinyimagenet.py:depth=18,weight=300

Argument, all optional: depth = 18, 50 or 101, stem = imagenet (the release's) or cifar
(3x3 without pooling, for small images), variant = ssc or rcc (pairs of one class, rows
by cosine), attack = fgsm (eps .03), pgd (.3), mim (.1) or bim (.05), distance = euc,
manhattan or cos, weight = lambda (10, 50, 100, 300, 500, 1000 in the paper), embedding
= logits or penultimate, twin = standard trains the same network with cross-entropy
beside it; `quick` shrinks the run to seconds. The release's 20 epochs have not been
run with this program. `--config.eval.suite=ssc2024` attacks as the paper does.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import ssc

MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the release's setting for a depth, an attack and a weight."""
    options = common.parse_arg(arg, {"depth": 18, "stem": "imagenet", **ssc.ARGUMENTS})
    config = common.base()
    config.data.name = "tiny_imagenet"
    ssc.use_resnet(config, options, num_classes=200, mean=MEAN, std=STD)
    common.use_radius(config, "4/255", "1/255", steps=10)
    ssc.use_objective(config, options)
    common.finish(config, options, ssc.fit, width=8)
    return config
