"""What the configs of PC-LC (Li et al., AAAI 2021) have in common."""

from typing import Any

from jaxrobust.training import config as common

# Epochs of each phase, and where its rate drops to a fifth.
EPOCHS, DROPS = 150.0, ((50.0, 0.2), (100.0, 0.04))
ARGUMENTS: dict[str, str | int | bool] = {
    "attack": "none",
    "from": "",
    **common.FINISHING,
}


def photographs(options: Any, data: str, num_classes: int) -> Any:
    """Returns a config of a set of photographs, its network and augmentation.

    Four images of five are mirrored, rotated and cropped; nothing is normalised.
    """
    config = common.base()
    config.data.name = data
    config.data.augment.update(
        flip=True, rotation=10.0, random_resized_crop=0.08, probability=0.8
    )
    config.model = {
        "name": options.model,
        "depth": options.depth,
        "width": 16 if options.model == "resnet_cifar" else 64,
        "num_classes": num_classes,
    }
    use_objective(config, options.attack, options["from"])
    return config


def use_objective(config: Any, attack: str, start: str) -> None:
    """Sets objective, optimiser and both phases' rates.

    Cross-entropy for 150 epochs, then PC + .05 LC for 150, each with Adam at .01 that
    drops to a fifth after 50 and again after 100. An `attack` of `none` is the method's
    own clean images; the network of a checkpoint `start` stands for the first phase.
    """
    config.objective.update(
        name="pc_lc",
        margin=0.995,
        constraint_weight=0.05,
        warmup_epochs=0.0 if start else EPOCHS,
        attack_name="" if attack == "none" else attack,
    )
    config.optimizer.update(name="adam", learning_rate=0.01, weight_decay=0.0)
    first = [] if start else [*DROPS, (EPOCHS, 1.0)]
    after = 0.0 if start else EPOCHS
    steps = first + [(after + epoch, scale) for epoch, scale in DROPS]
    common.use_piecewise(config, steps)
    config.train.update(epochs=after + EPOCHS, batch_size=256, init_from=start)
    config.data.validation_examples = 2000


def finish(config: Any, options: Any, width: int | None = None) -> None:
    """Applies `twin`, `budget` and `quick`, with a `width` and the least depth."""
    depth = 20 if config.model.name == "resnet_cifar" else 11
    small = {} if width is None else {"width": width, "depth": depth}
    common.finish(config, options, _fit, **small)
    if options.quick:
        config.train.epochs, config.objective.warmup_epochs = 2.0, 1.0


def _fit(config: Any) -> None:
    """Cuts both phases down, a third of the run for cross-entropy."""
    common.fit_cpu(config, epochs=6.0)
    config.optimizer.learning_rate = 2e-3
    config.objective.warmup_epochs = 0.0 if config.train.init_from else 2.0
