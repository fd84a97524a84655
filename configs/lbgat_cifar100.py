"""LBGAT on CIFAR-100 (Cui et al., ICCV 2021, arXiv 2011.11164).

    python -m jaxrobust.main --config configs/lbgat_cifar100.py:model=wide_resnet,beta=6

The release's settings: a ResNet-18 as guide, beta 0 (6 with the divergence of TRADES),
batch 128, SGD with momentum .9 and weight decay 2e-4, rate .1 (.02 in the first epoch),
a tenth from epochs 75 and 90 of 100 on, ten steps of .007 at .031. Evaluation is at
8/255.

Argument, all optional: beta = 0 or 6, model = preact_resnet (18), cnn3 or wide_resnet
(34-10, the paper's), awp perturbs the weights, ema evaluates averaged weights (decay
.995), twin = standard trains the same network with cross-entropy beside it; `quick`
shrinks the run to seconds, `budget=cpu` to a narrow network and one epoch, for two CPU
cores. The full run has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import baselines


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting of a network and a weight of the divergence."""
    options = common.parse_arg(arg, {"beta": 0, **baselines.ARGUMENTS})
    config = baselines.start(options, "lbgat", normalize=False)
    config.data.name = "cifar100"
    config.model.num_classes = 100
    common.use_radius(config, "8/255", "2/255", steps=10)
    config.attack.eps, config.attack.step_size = "0.031", "0.007"
    guide = {"name": "preact_resnet", "depth": 18, "width": 64}
    config.objective.update(beta=float(options.beta), guide=guide)
    config.optimizer.weight_decay = 2e-4
    rates = [(0.0, 0.2), (1.0, 1.0), (75.0, 0.1), (90.0, 0.01)]
    common.use_piecewise(config, rates)
    config.train.epochs = 100.0
    if options.awp:
        config.objective.awp_gamma = 0.005
    baselines.finish(config, options)
    if options.quick or options.budget == "cpu":
        config.objective.guide.width = config.model.width
    return config
