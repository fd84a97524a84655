"""TRADES on CIFAR-10 (Zhang et al., ICML 2019, arXiv 1901.08573).

    python -m jaxrobust.main --config configs/trades_cifar10.py:model=wide_resnet

The release's settings: beta 6, batch 128, SGD .1 with momentum .9, weight decay 2e-4, a
tenth at 75 of 76 epochs, ten steps of .007 at .031, no normalisation. With `awp` those
of Wu et al. (NeurIPS 2020): gamma .005 after ten epochs, weight decay 5e-4, a tenth at
100 and 150 of 200, ten steps of 2/255 at 8/255. Evaluation is at 8/255.

Argument, all optional: model = preact_resnet (18), cnn3 or wide_resnet (34-10, the
paper's), awp perturbs the weights, ema evaluates averaged weights (decay .995), twin =
standard trains the same network with cross-entropy beside it; `quick` shrinks the run
to seconds, `budget=cpu` to a narrow network and one epoch, for two CPU cores. The full
run has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import baselines


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for a network, with or without AWP and EMA."""
    options = common.parse_arg(arg, baselines.ARGUMENTS)
    config = baselines.start(options, "trades", normalize=False)
    common.use_radius(config, "8/255", "2/255", steps=10)
    config.objective.beta = 6.0
    if options.awp:
        baselines.use_awp(config, gamma=0.005, warmup_epochs=10.0)
    else:
        config.attack.eps, config.attack.step_size = "0.031", "0.007"
        config.optimizer.weight_decay = 2e-4
        config.schedule.milestones = (75.0, 90.0, 100.0)
        config.train.epochs = 76.0
    baselines.finish(config, options)
    return config
