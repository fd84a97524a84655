"""What the configs of FPD (Li et al., CVPR 2020) have in common."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jaxrobust.training import config as common

ARGUMENTS = {
    "encoder": "resnet",
    "depth": 101,
    "adversarial": "",
    "without": "",
    "undefended": False,
    "from": "",
    **common.FINISHING,
}
SWITCHES = {
    "restoration": "restoration",
    "front": "front_denoising",
    "back": "back_denoising",
    "input": "input_denoising",
    "classifier": "constrained",
}
ATTACKS = ("fgsm", "pgd")


def use_network(config: Any, options: Any, variant: str, num_classes: int) -> None:
    """Sets the network, its ablations and its image channels."""
    if options.encoder not in ("resnet", "resnext"):
        raise ValueError(f"`encoder` is resnet or resnext, got {options.encoder!r}.")
    off = [name for name in options.without.split("+") if name]
    for name in off:
        if name not in SWITCHES:
            raise ValueError(
                f"`without` is of {', '.join(SWITCHES)}, joined by +, got {name!r}."
            )
    defended = not options.undefended
    switches = {field: defended and name not in off for name, field in SWITCHES.items()}
    config.data.channels = 3
    config.model = {
        "name": f"fpd_{options.encoder}",
        "depth": options.depth,
        "layers": (),  # blocks of each stage, in place of the depth
        "variant": variant,
        "defended": defended,
        "num_classes": num_classes,
        "width": 64,
        "dropout": 0.0 if variant == "mnist" or not defended else 0.5,
        # Largest spectral norm of the dense layer; 0 = any.
        "spectral_bound": 0.0,
        **switches,
    }
    if options.encoder == "resnet":
        config.model["stem"] = "imagenet"  # cifar: for small images


def use_objective(
    config: Any, *, noise: float, threshold: float, weight: float
) -> None:
    """Sets, after `use_network`, the two-phase objective of `defenses.fpd`.

    Without restoration there is nothing to restore in two phases: cross-entropy. And
    what all runs of the release share. `weight` is that of the second update.
    """
    config.objective.update(
        name="fpd" if config.model.restoration else "standard",
        noise=noise,
        threshold=threshold,
        phase1="restoration",  # or all_but_classifier, what the release means
        second_weight=weight,
        # Weight of the spectral norm of the dense layer.
        spectral_penalty=0.0,
        attack_name="",
        delay_epochs=0.0,
    )
    config.optimizer.update(
        name="adam", learning_rate=1e-4, clip_norm=5.0, weight_decay=0.0
    )
    config.schedule.update(name="plateau", factor=0.1, patience=10)
    config.train.update(epochs=100.0, batch_size=300, early_stop=20)
    config.eval.growth.enabled = False  # a measure of stages as integrators


def use_attack(config: Any, options: Any, delay: float) -> None:
    """Adds, after `use_objective`, the adversarial training of the release.

    Half clean, half attacked, on the network's own predictions; no noise. It is meant
    to start from a trained network, the argument `from`. The attack sets in after
    `delay` epochs.
    """
    config.train.init_from = options["from"]
    if not options.adversarial:
        return
    if options.adversarial not in ATTACKS:
        raise ValueError(
            f"`adversarial` is one of {', '.join(ATTACKS)}, or left out, got "
            f"{options.adversarial!r}."
        )
    if config.objective.name == "fpd":
        config.objective.update(
            attack_name=options.adversarial, noise=0.0, delay_epochs=delay
        )
    else:
        config.objective.name = options.adversarial
    config.schedule.patience = 15
    config.train.early_stop = 10


def finish(config: Any, options: Any, fit: Callable[[Any], None] | None = None) -> None:
    """Applies `twin`, `budget` and `quick`; `fit` is what more `budget=cpu` does."""

    def shorter(config: Any) -> None:
        # The Gram matrices are not normalised: wide networks learn late, and the stem
        # of stride 4 leaves little to restore a small image from.
        config.data.image_size = 32
        config.model.width = 8
        if not common.given(options, "depth"):
            config.model.layers = (1, 1, 1, 1)
        if options.encoder == "resnet":
            config.model.stem = "cifar"
        config.optimizer.update(name="adam", learning_rate=2e-3)
        config.train.update(batch_size=64, early_stop=0)
        config.objective.delay_epochs = 0.0
        config.attack.steps = 5
        common.fit_cpu(config, epochs=1.0)
        if fit:
            fit(config)

    common.finish(config, options, shorter)
    if options.quick:
        config.data.image_size = min(config.data.image_size, 64)
        config.model.width = 8


def caltech(options: Any, data: str, variant: str, num_classes: int) -> ConfigDict:
    """Returns the setting of both Caltech sets, by name."""
    config: Any = common.base()
    config.data.update(name=data, image_size=224, validation_examples=500)
    config.data.augment.update(random_resized_crop=0.8, rotation=15.0, flip=True)
    use_network(config, options, variant, num_classes)
    use_objective(config, noise=0.03, threshold=1.0, weight=0.1)
    config.schedule.patience = 15
    config.train.batch_size = 24
    config.validation.batch_size = config.eval.batch_size = 50
    common.use_radius(config, "8/255", "2/255", steps=40)
    use_attack(config, options, delay=0.0)
    finish(config, options)
    return config
