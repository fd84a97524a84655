"""SSP networks on Fashion-MNIST (Kim et al., ECCV 2020).

    python -m jaxrobust.main --config configs/ssp_fmnist.py:block=ssp3,attack=pgd

Argument as in configs/ssp_mnist.py. Prepare the data first:
`python -m jaxrobust.data.prepare fashion_mnist`. `budget=cpu` is one epoch. The paper's
200 epochs have not been run with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the paper's setting for a block, a depth and a training attack."""
    options = common.parse_arg(
        arg,
        {
            "block": "ssp3",
            "n": 3,
            "attack": "pgd",
            "init": "kn",
            "budget": "",
            "quick": False,
        },
    )
    config = common.base()
    config.data.name = "fashion_mnist"
    config.data.validation_examples = 2000
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    config.model = ConfigDict(
        {
            "name": "ssp_mnist",
            "integrator": options.block,
            "blocks": options.n,
            "norm": "g",
            "init": options.init,
            "num_classes": 10,
        }
    )
    common.use_radius(config, "0.1", "0.02", steps=10)
    config.eval.curve.eps = ["0", "0.02", "0.05", "0.1", "0.15", "0.2", "0.3", "1"]
    plain = options.attack == "none"
    config.objective.name = "standard" if plain else options.attack
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "constant"
    config.train.batch_size = 64
    if options.budget == "cpu":
        common.fit_cpu(config, epochs=1.0)
    elif options.budget:
        raise ValueError(f"`budget` is cpu or left out, got {options.budget!r}.")
    if options.quick:
        common.shrink(config)
    return config
