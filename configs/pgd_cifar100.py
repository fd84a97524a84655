"""PGD training on CIFAR-100 (Madry et al., ICLR 2018), settings of Rice et al. 2020.

    python -m jaxrobust.main --config configs/pgd_cifar100.py:ema

As configs/pgd_cifar10.py: batch 128, SGD .1 with momentum .9, weight decay 5e-4, a
tenth at 100 and 150 of 200 epochs, PGD-10 of 2/255 at 8/255 with a random start.

Argument, all optional: model = preact_resnet (18), wide_resnet (34-10) or cnn3, awp
perturbs the weights (gamma .01), ema evaluates averaged weights (decay .995), twin =
standard trains the same network with cross-entropy beside it; `quick` shrinks the run
to seconds, `budget=cpu` to a narrow network and one epoch, for two CPU cores. The full
run has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import baselines

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for a network, with or without AWP and EMA."""
    options = common.parse_arg(arg, baselines.ARGUMENTS)
    config = baselines.start(options, "pgd", normalize=False)
    config.data.name = "cifar100"
    config.model.update(num_classes=100, mean=MEAN, std=STD)
    common.use_radius(config, "8/255", "2/255", steps=10)
    config.schedule.milestones = (100.0, 150.0)
    if options.awp:
        baselines.use_awp(config, gamma=0.01, warmup_epochs=0.0)
    baselines.finish(config, options)
    return config
