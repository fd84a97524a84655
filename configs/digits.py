"""Each method beside its twins on scikit-learn's digits: minutes each, no download.

    python -m jaxrobust.main --config configs/digits.py:method=pcl
    python -m jaxrobust.main --config configs/digits.py:method=pcl,training=pgd

Argument, all optional: method = pcl, fpd, pc_lc or ssc (those of SSP networks:
`quickstart`), training = method, adversarial (the method on attacked images), standard
or pgd (the same network, epochs and images with cross-entropy, or PGD); `quick` shrinks
the run to seconds. Images of 8 x 8 are enlarged to 16 x 16, the radius is Linf .1.
1,297 images train and 360 test: this compares methods on one small task, and says
nothing about photographs.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import fpd, pcl, pclc, ssc

METHODS = ("pcl", "fpd", "pc_lc", "ssc")
FPD_SMALL = {"layers": (1, 1, 1, 1), "width": 8, "stem": "cifar"}
TRAININGS = ("method", "adversarial", "standard", "pgd")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting of a method, or of a twin of its network."""
    options: Any = common.parse_arg(
        arg, {"method": "pcl", "training": "method", "quick": False}
    )
    method, training = options.method, options.training
    if method not in METHODS:
        raise ValueError(f"`method` is one of {', '.join(METHODS)}, got {method!r}.")
    if training not in TRAININGS:
        raise ValueError(
            f"`training` is one of {', '.join(TRAININGS)}, got {training!r}."
        )
    if (method, training) == ("ssc", "adversarial"):
        raise ValueError("`ssc` trains on attacked images by itself: training=method.")
    config: Any = common.base()
    common.use_radius(config, "0.1", "0.03", steps=10)
    config.eval.curve.eps = ["0", "0.02", "0.05", "0.1", "0.15", "0.2", "0.3", "1"]
    _OF_METHOD[method](config, training == "adversarial")
    # Sigmoids leave their start late.
    common.fit_cpu(config, epochs=300.0 if method == "ssc" else 60.0)
    config.data.update(
        name="digits", image_size=16, validation_examples=140, test_examples=0
    )
    config.data.augment.crop_padding = 1
    config.train.update(batch_size=64, validate_every_epochs=5.0)
    if training in ("standard", "pgd"):
        config.objective.name = training
        if method == "fpd":
            # Its two passes share BatchNorm's statistics, which fit both only where
            # the one restores the image: its twin is the encoder alone.
            fpd.use_network(config, _fpd_options(undefended=True), "mnist", 10)
            config.model.update(FPD_SMALL)
    if training != "method":
        config.attack.update(eps="0.1", step_size="0.03", steps=10)
        config.objective.attack_warmup_epochs = 5.0
    if options.quick:
        common.shrink(config)
        config.objective.warmup_epochs = 0.5
    return config


def _pcl(config: Any, adversarial: bool) -> None:
    pcl.use_network(config, 20)
    config.model["width"] = 8
    pcl.use_prototypes(config, contrastive=1e-5 if adversarial else 1e-4)
    if adversarial:
        pcl.use_attack(config, "pgd")
        config.objective.eps_range = (0.03, 0.1)
    config.objective.warmup_epochs = 20.0


def _fpd_options(**fields: Any) -> ConfigDict:
    return ConfigDict({**fpd.ARGUMENTS, **fields})


def _fpd(config: Any, adversarial: bool) -> None:
    options = _fpd_options(adversarial="pgd" if adversarial else "")
    fpd.use_network(config, options, "mnist", num_classes=10)
    config.model.update(FPD_SMALL)
    fpd.use_objective(config, noise=0.01, threshold=3.0, weight=1.0)
    fpd.use_attack(config, options, delay=5.0)
    config.optimizer.update(name="adam", learning_rate=2e-3)
    config.train.early_stop = 0


def _pc_lc(config: Any, adversarial: bool) -> None:
    config.model = {"name": "lenet5", "num_classes": 10}
    pclc.use_objective(config, "pgd" if adversarial else "none", "")
    config.optimizer.learning_rate = 2e-3
    config.objective.warmup_epochs = 20.0


def _ssc(config: Any, adversarial: bool) -> None:
    config.model = {"name": "lenet_sigmoid", "num_classes": 10}
    del adversarial
    ssc.use_objective(config, ConfigDict(ssc.ARGUMENTS))
    config.optimizer.update(name="adam", learning_rate=2e-3, weight_decay=0.0)


_OF_METHOD = {"pcl": _pcl, "fpd": _fpd, "pc_lc": _pc_lc, "ssc": _ssc}
