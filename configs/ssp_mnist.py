"""SSP networks on MNIST (Kim et al., ECCV 2020).

    python -m jaxrobust.main --config configs/ssp_mnist.py:block=ssp3,attack=pgd

Argument, all optional: block = res, midrk2, ssp2, ssp3, ark, n = number of blocks,
attack = none, ball, fgsm, bim, pgd, trades, init = basic, kn, upscale, ortho; `quick`
shrinks the run to seconds, `budget=cpu` to half an epoch with Adam for two CPU cores
(what that gives: docs/results.md). The paper's 200 epochs have not been run with this
program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the paper's setting for a block, a depth and a training attack."""
    options = common.parse_arg(
        arg,
        {
            "block": "ssp3",
            "n": 5,
            "attack": "pgd",
            "init": "basic",
            "budget": "",
            "quick": False,
        },
    )
    config = common.base()
    config.data.name = "mnist"
    config.data.validation_examples = 2000
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
    common.use_radius(config, "0.3", "0.05", steps=10)
    config.eval.curve.eps = [
        "0",
        "0.05",
        "0.1",
        "0.15",
        "0.2",
        "0.25",
        "0.3",
        "0.4",
        "1",
    ]
    plain = options.attack == "none"
    config.objective.name = "standard" if plain else options.attack
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 0.0
    config.schedule.milestones = (60.0, 100.0, 140.0)
    if options.budget == "cpu":
        # The release's other optimiser: plain SGD needs more than an epoch to leave the
        # start at this radius.
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 1e-3
        config.train.batch_size = 64
        common.fit_cpu(config, epochs=0.5)
        config.objective.attack_warmup_epochs = 0.25
        config.attack.steps, config.attack.step_size = 5, "0.1"
    elif options.budget:
        raise ValueError(f"`budget` is cpu or left out, got {options.budget!r}.")
    if options.quick:
        common.shrink(config)
    return config
