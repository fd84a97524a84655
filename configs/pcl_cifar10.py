"""PCL on CIFAR-10 (Mustafa et al., ICCV 2019): cross-entropy, then with prototypes.

    python -m jaxrobust.main --config configs/pcl_cifar10.py:depth=110

Argument, all optional: depth = 6n + 2 (from 44 on with bottlenecks), schedule = paper
(rate drops in both phases) or released (never in the second), from = work directory or
checkpoint that stands for the first phase, twin = standard trains the same network with
cross-entropy beside it; `quick` shrinks the run to seconds, `budget=cpu` to depth 8 and
two epochs, for two CPU cores. The paper's 164 + 400 epochs have not been run with this
program. `--config.eval.suite=pcl2019` attacks as the paper does.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import pcl

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the release's setting for a depth and a schedule."""
    options = common.parse_arg(
        arg,
        {
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
    pcl.use_prototypes(config, contrastive=1e-4)
    pcl.use_schedule(config, options.schedule, 400.0, options["from"])
    pcl.finish(config, options, first=1.0, second=1.0)
    return config
