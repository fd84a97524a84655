"""SSP networks on TinyImageNet (Kim et al., ECCV 2020).

    python -m jaxrobust.main --config configs/ssp_tinyimagenet.py:block=ssp2,n=10

Argument as in configs/ssp_cifar10.py. Prepare the data first:
`python -m jaxrobust.data.prepare tiny_imagenet`. `budget=cpu` is N = 1 and a twentieth
of an epoch: it shows that the network learns, no more. The paper's 200 epochs have not
been run with this program yet.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the paper's setting for a block, a depth and a training attack."""
    options = common.parse_arg(
        arg, {"block": "ssp2", "n": 10, "attack": "pgd", "budget": "", "quick": False}
    )
    config = common.base()
    config.data.name = "tiny_imagenet"
    config.data.validation_examples = 4000
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    config.model = ConfigDict(
        {
            "name": "ssp_tinyimagenet",
            "integrator": options.block.replace("+", ","),
            "blocks": options.n,
            "norm": "b",
            "num_classes": 200,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        }
    )
    common.use_radius(config, "4/255", "1/255", steps=5)
    plain = options.attack == "none"
    config.objective.name = "standard" if plain else options.attack
    config.schedule.milestones = (60.0, 100.0, 140.0) if plain else (80.0, 140.0, 180.0)
    config.train.batch_size = 256
    if options.budget == "cpu":
        if not common.given(options, "n"):
            config.model.blocks = 1
        common.fit_cpu(config, epochs=0.05)
    elif options.budget:
        raise ValueError(f"`budget` is cpu or left out, got {options.budget!r}.")
    if options.quick:
        common.shrink(config)
    return config
