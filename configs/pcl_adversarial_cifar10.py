"""Adversarial PCL on CIFAR-10 (Mustafa et al., ICCV 2019): clean and attacked copies.

    python -m jaxrobust.main --config configs/pcl_adversarial_cifar10.py:attack=fgsm

The release starts from a network trained with cross-entropy: `from=PATH`, the work
directory of configs/pcl_cifar10.py or a converted checkpoint. Without it that training
comes first in the same run, at the cost of the joint phase's steps.

Argument, all optional: attack = fgsm or pgd (10 steps of 2/255, no random start), each
batch at a radius from U(.02, .05); depth = 6n + 2, schedule = paper or released (the
rate of the second phase never drops), from, twin = standard trains the same network
with cross-entropy beside it; `quick` shrinks the run to seconds, `budget=cpu` to depth
8 and an epoch and a half, for two CPU cores. The release's 500 epochs have not been run
with this program. `--config.eval.suite=pcl2019` attacks as the paper does.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import pcl

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the release's setting for an attack, a depth and a schedule."""
    options = common.parse_arg(
        arg,
        {
            "attack": "fgsm",
            "depth": 110,
            "schedule": "paper",
            "from": "",
            **common.FINISHING,
        },
    )
    config = common.base()
    config.data.name = "cifar10"
    config.data.validation_examples = 2000
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    pcl.use_network(config, options.depth, mean=MEAN, std=STD)
    common.use_radius(config, "8/255", "2/255", steps=10)
    pcl.use_prototypes(config, contrastive=1e-5)
    pcl.use_attack(config, options.attack)
    pcl.use_schedule(config, options.schedule, 500.0, options["from"])
    pcl.finish(config, options, first=0.5, second=1.0)
    return config
