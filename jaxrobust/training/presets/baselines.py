"""What the configs of the baselines on CIFAR-10 (PGD, TRADES, MART) have in common."""

from typing import Any

from jaxrobust._checks import check_choice
from jaxrobust.training import config as common

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Size in the papers, and what `quick` and `budget=cpu` shrink it to. The papers have no
# `cnn3`: it is what a CPU trains in an hour.
NETWORKS = {
    "preact_resnet": ({"depth": 18, "width": 64}, {"width": 4}, {"width": 8}),
    "wide_resnet": (
        {"depth": 34, "width": 10},
        {"depth": 10, "width": 1},
        {"depth": 10, "width": 1},
    ),
    "cnn3": ({"width": 16}, {"width": 4}, {}),
}
EMA = 0.995
ARGUMENTS: dict[str, str | int | bool] = {
    "model": "preact_resnet",
    "awp": False,
    "ema": False,
    **common.FINISHING,
}


def start(options: Any, objective: str, *, normalize: bool) -> Any:
    """Returns a config of CIFAR-10, network, objective and SGD with momentum .9.

    The network subtracts the data's mean first where it is to `normalize`.
    """
    check_choice("model", options.model, NETWORKS)
    config = common.base()
    config.data.update(name="cifar10", validation_examples=2000)
    config.data.augment.update(crop_padding=4, flip=True)
    size, _, _ = NETWORKS[options.model]
    config.model = {"name": options.model, **size, "num_classes": 10}
    if normalize:
        config.model.update(mean=MEAN, std=STD)
    config.objective.name = objective
    config.optimizer.nesterov = False
    if options.model == "cnn3":
        config.optimizer.learning_rate = 0.02  # it has no normalisation
    return config


def use_awp(config: Any, gamma: float, warmup_epochs: float) -> None:
    """Perturbs the weights, with the schedule and decay of the AWP release."""
    config.objective.update(awp_gamma=gamma, awp_warmup_epochs=warmup_epochs)
    config.optimizer.weight_decay = 5e-4
    config.schedule.milestones = (100.0, 150.0)
    config.train.epochs = 200.0


def finish(config: Any, options: Any) -> None:
    """Applies the arguments that all baselines have."""
    if options.ema:
        config.train.ema = EMA
    _, quick, _ = NETWORKS[options.model]
    common.finish(config, options, _fit, **quick)


def _fit(config: Any) -> None:
    """Cuts down to a narrow network, one epoch and at most three attack steps."""
    common.fit_cpu(config, epochs=1.0)
    _, _, narrow = NETWORKS[config.model.name]
    config.model.update(narrow)
    if config.attack.steps > 3:
        config.attack.update(steps=3, step_size="4/255")
    config.objective.awp_warmup_epochs = 0.0
