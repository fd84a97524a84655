"""PCL on MNIST (Mustafa et al., ICCV 2019), at 32 px: the release has CIFAR-10 alone.

    python -m jaxrobust.main --config configs/pcl_mnist.py:budget=cpu,twin=standard

The paper's MNIST network has six convolutions; this is `pcl_resnet` at the depth given,
with the settings of CIFAR-10. Its radii and attacks in training are ours.

Argument, all optional: attack = none, fgsm or pgd (each batch at a radius from
U(.1, .3)), depth = 6n + 2, schedule = paper or released (the rate of the second phase
never drops), from = work directory or checkpoint that stands for the first phase,
twin = standard trains the same network with cross-entropy beside it; `quick` shrinks
the run to seconds, `budget=cpu` to depth 8, width 8 and one epoch, for two CPU cores
(what that gives: docs/results.md). `--config.eval.suite=pcl2019` attacks as the paper
does.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import pcl


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns a setting after that of CIFAR-10."""
    options = common.parse_arg(
        arg,
        {
            "attack": "none",
            "depth": 20,
            "schedule": "paper",
            "from": "",
            **common.FINISHING,
        },
    )
    config = common.base()
    config.data.name = "mnist"
    config.data.image_size = 32
    config.data.validation_examples = 2000
    pcl.use_network(config, options.depth)
    common.use_radius(config, "0.3", "0.05", steps=10)
    config.eval.curve.eps = ["0", "0.05", "0.1", "0.15", "0.2", "0.3", "0.4", "1"]
    plain = options.attack == "none"
    pcl.use_prototypes(config, contrastive=1e-4 if plain else 1e-5)
    if not plain:
        pcl.use_attack(config, options.attack)
        config.objective.eps_range = (0.1, 0.3)
        config.attack.step_size = "0.05"
    pcl.use_schedule(
        config, options.schedule, 400.0 if plain else 500.0, options["from"]
    )
    pcl.finish(config, options, first=0.25, second=0.75)
    if options.budget:
        config.model.width = 8
    return config
