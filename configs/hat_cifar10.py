r"""HAT on CIFAR-10 (Rade and Moosavi-Dezfooli, ICLR 2022).

    python -m jaxrobust.main --config configs/hat_cifar10.py --mode=train \
        --config.objective.name=standard --workdir runs/plain
    python -m jaxrobust.main --config configs/hat_cifar10.py:helper=runs/plain

The release's settings: beta 2.5, gamma .5, helper images at twice the perturbation,
batch 128, SGD with Nesterov momentum .9 and weight decay 5e-4, one cycle of the rate
over 50 epochs that peaks at .21 after a quarter (linear here, by cosines there), ten
steps of 2/255 at 8/255, no normalisation. Without `helper` one of the network's kind is
trained beside it, which is no part of the paper.

Argument, all optional: helper = a work directory, checkpoint or zoo:NAME of a network
trained without attacks, model = preact_resnet (18), wide_resnet (34-10) or cnn3, awp
perturbs the weights, ema evaluates averaged weights (decay .995), twin = standard
trains the same network with cross-entropy beside it; `quick` shrinks the run to
seconds, `budget=cpu` to a narrow network and one epoch, for two CPU cores. The full run
has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import baselines


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting with a helper that is given, or trained beside."""
    options = common.parse_arg(arg, {"helper": "", **baselines.ARGUMENTS})
    config = baselines.start(options, "hat", normalize=False)
    common.use_radius(config, "8/255", "2/255", steps=10)
    fields = {"beta": 2.5, "gamma": 0.5, "helper_scale": 2.0}
    config.objective.update(helper=options.helper, **fields)
    config.optimizer.update(learning_rate=0.21, nesterov=True)
    config.train.epochs = 50.0
    if options.awp:
        config.objective.awp_gamma = 0.005
    baselines.finish(config, options)
    config.schedule.update(name="cyclic", peak=0.25)
    return config
