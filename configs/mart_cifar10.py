"""MART on CIFAR-10 (Wang et al., ICLR 2020).

    python -m jaxrobust.main --config configs/mart_cifar10.py

The release's settings. ResNet-18: beta 5, SGD .01, weight decay 3.5e-3, 120 epochs;
WRN-34-10: beta 6, SGD .1, weight decay 7e-4, 90 epochs; both: batch 128, momentum .9, a
tenth at 75, 90 and 100, ten steps of .007 at .031, no normalisation. `awp` adds gamma
.005 after ten epochs to them (the AWP release has no MART; its settings for TRADES).
Evaluation is at 8/255.

Argument, all optional: model = preact_resnet (18), wide_resnet (34-10) or cnn3, awp
perturbs the weights, ema evaluates averaged weights (decay .995), twin = standard
trains the same network with cross-entropy beside it; `quick` shrinks the run to
seconds, `budget=cpu` to a narrow network and one epoch, for two CPU cores. The full run
has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import baselines


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for a network, with or without AWP and EMA."""
    options = common.parse_arg(arg, baselines.ARGUMENTS)
    config = baselines.start(options, "mart", normalize=False)
    common.use_radius(config, "8/255", "2/255", steps=10)
    config.attack.eps, config.attack.step_size = "0.031", "0.007"
    wide = options.model == "wide_resnet"
    config.objective.beta = 6.0 if wide else 5.0
    config.optimizer.learning_rate = 0.1 if wide else 0.01
    config.optimizer.weight_decay = 7e-4 if wide else 3.5e-3
    config.schedule.milestones = (75.0, 90.0, 100.0)
    config.train.epochs = 90.0 if wide else 120.0
    if options.awp:
        config.objective.awp_gamma = 0.005
        config.objective.awp_warmup_epochs = 10.0
    baselines.finish(config, options)
    return config
