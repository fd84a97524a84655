"""What the configs of SSC-DM and of its kin RCC have in common."""

from typing import Any

from jaxrobust._checks import check_choice
from jaxrobust.training import config as common

# Radius, step size and steps of the release's training attacks.
ATTACKS = {
    "fgsm": ("0.03", "0.0078", 1),
    "pgd": ("0.3", "0.0078", 20),
    "mim": ("0.1", "0.0078", 20),
    "bim": ("0.05", "0.01", 10),  # RCC's
}
ARGUMENTS: dict[str, str | int | bool] = {
    "variant": "ssc",
    "attack": "",
    "distance": "euc",
    "weight": -1,
    "embedding": "",
    **common.FINISHING,
}


def use_resnet(config: Any, options: Any, **fields: Any) -> None:
    """Sets the network of CIFAR-100 and TinyImageNet: an ImageNet-form ResNet."""
    config.model = {
        "name": "resnet",
        "depth": options.depth,
        "stem": options.stem,
        "width": 64,
        **fields,
    }


def use_objective(config: Any, options: Any) -> None:
    """Sets objective, training attack and optimiser, after the radius of evaluation.

    `ssc`: alpha = 0, beta = 1, lambda = 300, logits, FGSM; SGD .01, momentum .9, weight
    decay 1e-3, 20 epochs. `rcc`: alpha = beta = .5, lambda = 15, penultimate features,
    pairs of a class, rows by cosine, BIM; Adam 1e-3, weight decay 5e-4, a tenth every
    30 of 100 epochs.
    """
    if options.variant not in ("ssc", "rcc"):
        raise ValueError(f"`variant` must be ssc or rcc, got {options.variant!r}.")
    rcc = options.variant == "rcc"
    attack = options.attack or ("bim" if rcc else "fgsm")
    check_choice("attack", attack, ATTACKS)
    config.objective.update(
        name="ssc",
        attack_name=attack,
        attack_bn="train",
        alpha=0.5 if rcc else 0.0,
        beta=0.5 if rcc else 1.0,
        structure_weight=15.0 if rcc else 300.0,
        embedding=options.embedding or ("penultimate" if rcc else "logits"),
        distance=options.distance,
        same_class=rcc,
        compare="cosine" if rcc else "frobenius",
    )
    if options.weight >= 0:
        config.objective.structure_weight = float(options.weight)
    eps, step_size, steps = ATTACKS[attack]
    config.attack.update(eps=eps, step_size=step_size, steps=steps, decay=0.9)
    config.optimizer.update(nesterov=False, learning_rate=0.01, weight_decay=1e-3)
    config.schedule.name = "constant"
    config.train.epochs = 20.0
    config.data.validation_examples = 2000
    if rcc:
        config.optimizer.update(name="adam", learning_rate=1e-3, weight_decay=5e-4)
        config.schedule.update(name="step", milestones=(30.0, 60.0, 90.0))
        config.train.epochs = 100.0


def fit(config: Any) -> None:
    """Cuts the run down; sigmoid LeNet leaves its start sooner with Adam than SGD."""
    common.fit_cpu(config, epochs=6.0)
    config.optimizer.update(name="adam", learning_rate=2e-3, weight_decay=0.0)
