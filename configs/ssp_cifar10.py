"""SSP networks on CIFAR-10 (Kim et al., ECCV 2020), plain or adversarial training.

    python -m jaxrobust.main --config configs/ssp_cifar10.py:block=ssp2,n=6,attack=pgd

Argument, all optional: block = res, midrk2, ssp2, ssp3, ark (or one name per stage,
joined by +: ark+res+ssp2), n = blocks per stage, attack = none, ball, fgsm, bim, pgd,
trades; `quick` shrinks the run to seconds, `budget=cpu` to one epoch and, where `n` is
not given, N = 2, for two CPU cores (what that gives: docs/results.md). The paper trains
for 200 epochs; nobody has run them with this program yet, so no figure is promised.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the paper's setting for a block, a depth and a training attack."""
    options = common.parse_arg(
        arg, {"block": "ssp2", "n": 6, "attack": "pgd", "budget": "", "quick": False}
    )
    config = common.base()
    config.data.name = "cifar10"
    config.data.validation_examples = 2000
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    config.model = ConfigDict(
        {
            "name": "ssp_cifar",
            "integrator": options.block.replace("+", ","),
            "blocks": options.n,
            "norm": "b",
            "num_classes": 10,
            "mean": MEAN,
            "std": STD,
        }
    )
    common.use_radius(config, "8/255", "2/255", steps=7)
    plain = options.attack == "none"
    config.objective.name = "standard" if plain else options.attack
    config.schedule.milestones = (80.0, 140.0, 180.0)
    if plain:
        config.schedule.milestones = (60.0, 100.0, 140.0)
        if options.block in ("ssp2", "ssp3"):
            config.schedule.milestones = (70.0, 120.0, 160.0)
    if options.budget == "cpu":
        if not common.given(options, "n"):
            config.model.blocks = 2
        common.fit_cpu(config, epochs=1.0)
    elif options.budget:
        raise ValueError(f"`budget` is cpu or left out, got {options.budget!r}.")
    if options.quick:
        common.shrink(config)
    return config
