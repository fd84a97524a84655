"""What the configs of PCL (Mustafa et al., ICCV 2019) have in common."""

from typing import Any

from jaxrobust._checks import check_choice
from jaxrobust.training import config as common

# Epochs of cross-entropy, those of the joint objective, and the drops in each.
FIRST, FIRST_DROPS = 164.0, (81.0, 122.0, 140.0)
SECOND_DROPS = (142.0, 230.0, 360.0)
SCHEDULES = ("paper", "released")


def use_prototypes(config: Any, contrastive: float) -> None:
    """Sets the objective `pcl` and its three optimisers.

    The network's is SGD of rate .01, momentum .9, weight decay 1e-4; the centres' are
    plain SGD, whose rates keep their ratio to the network's under the schedule.
    `contrastive` is the weight of the contrastive proximity and the rate of its
    centres: 1e-4 in the release, 1e-5 in its adversarial training.
    """
    config.objective.name = "pcl"
    config.objective.update(
        # Features with centres: names in `Outputs.features`.
        layers=("pooled", "embedding"),
        proximity_weight=1.0,
        contrastive_weight=contrastive,
        # Of the paper's term between the centres, which the release lacks.
        separation_weight=0.0,
        # Cross-entropy alone before.
        warmup_epochs=FIRST,
    )
    config.optimizer.update(learning_rate=0.01, nesterov=False, weight_decay=1e-4)
    plain = {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
    config.label_optimizers = {
        "proximity": {**plain, "learning_rate": 0.5},
        "contrastive": {**plain, "learning_rate": contrastive},
    }


def use_attack(config: Any, attack: str) -> None:
    """Sets, after `use_prototypes`, the objective on clean and attacked copies."""
    if attack not in ("fgsm", "pgd"):
        raise ValueError(f"`attack` must be fgsm or pgd, got {attack!r}.")
    config.objective.update(
        name="pcl_adversarial",
        attack_bn="eval",
        attack_name=attack,
        # One radius per batch, uniform; () = that of config.attack.
        eps_range=(0.02, 0.05),
    )
    # As released: `pgd` starts at the image itself.
    config.attack.update(step_size="2/255", steps=10, random_start=False)
    config.train.batch_size = 64


def use_schedule(config: Any, name: str, epochs: float, start: str = "") -> None:
    """Sets both phases: 164 epochs of cross-entropy at rate .1, then the joint ones.

    `name` is `paper`, or `released`, in which the rate of the second phase, of so many
    `epochs`, never drops. The network of a work directory or checkpoint `start` stands
    for the first phase.
    """
    check_choice("schedule", name, SCHEDULES)
    first = 0.0 if start else FIRST
    # Scales are of the second phase's rate, .01; the first starts at ten times that.
    steps = [(first, 1.0)]
    if not start:
        drops = zip((0.0, *FIRST_DROPS), (10.0, 1.0, 0.1, 0.01), strict=True)
        steps = [*drops, *steps]
    if name == "paper":
        drops = zip(SECOND_DROPS, (0.1, 0.01, 0.001), strict=True)
        steps += [(first + epoch, scale) for epoch, scale in drops]
    common.use_piecewise(config, steps)
    config.objective.warmup_epochs = first
    config.train.update(epochs=first + epochs, init_from=start)


def use_network(config: Any, depth: int, **fields: Any) -> None:
    """Sets the network: `pcl_resnet` of a depth for ten classes."""
    config.model = {
        "name": "pcl_resnet",
        "depth": depth,
        "width": 16,
        "branches": ("auxiliary",),
        "num_classes": 10,
        **fields,
    }


def shorten(config: Any, options: Any, first: float, second: float) -> None:
    """Cuts both phases down, after `use_schedule`, to some epochs for a few CPU cores.

    There is no first phase where the run starts from a checkpoint; in the second the
    rate drops for the last quarter, but not in the `released` schedule.
    """
    first = 0.0 if config.train.init_from else first
    common.fit_cpu(config, first + second)
    config.train.batch_size = 64
    if not common.given(options, "depth"):
        config.model.depth = 8
    config.objective.warmup_epochs = first
    start = [(0.0, 10.0)] if first else []
    drops = [(first + 0.75 * second, 0.1)] if options.schedule == "paper" else []
    common.use_piecewise(config, [*start, (first, 1.0), *drops])


def finish(config: Any, options: Any, first: float, second: float) -> None:
    """Applies `twin`, `budget` and `quick`, with the phases' epochs of `budget=cpu`."""
    if options.quick:
        first = second = 1.0
        shorten(config, options, first, second)
    common.finish(config, options, lambda c: shorten(c, options, first, second))
    if options.quick:
        config.train.epochs = config.objective.warmup_epochs + 1.0
        config.train.validate_every_epochs = 1.0
