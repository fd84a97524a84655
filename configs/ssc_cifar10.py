"""SSC-DM on CIFAR-10: AlexNet, structure of the batch.

    python -m jaxrobust.main --config configs/ssc_cifar10.py:attack=fgsm,weight=300

Argument, all optional: variant = ssc or rcc (pairs of one class, rows by cosine),
attack = fgsm (eps .03), pgd (.3), mim (.1) or bim (.05), distance = euc, manhattan or
cos, weight = lambda (10, 50, 100, 300, 500, 1000 in the paper), embedding = logits or
penultimate, twin = standard trains the same network with cross-entropy beside it;
`quick` shrinks the run to seconds. The release's 20 epochs have not been run with this
program. `--config.eval.suite=ssc2024` attacks as the paper does.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import ssc


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the release's setting for an attack, a distance and a weight."""
    options = common.parse_arg(arg, ssc.ARGUMENTS)
    config = common.base()
    config.data.name = "cifar10"
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    config.model = ConfigDict({"name": "alexnet", "width": 64, "num_classes": 10})
    common.use_radius(config, "8/255", "2/255", steps=10)
    ssc.use_objective(config, options)
    common.finish(config, options, ssc.fit, width=8)
    return config
