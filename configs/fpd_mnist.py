"""FPD on MNIST (Li et al., CVPR 2020), two phases or adversarial training after them.

    python -m jaxrobust.main --config configs/fpd_mnist.py:depth=101 --workdir runs/fpd
    python -m jaxrobust.main
      --config configs/fpd_mnist.py:adversarial=pgd,from=runs/fpd --workdir runs/fpd_pgd

Argument, all optional: encoder = resnet, resnext, depth = 50, 101, 152, adversarial =
fgsm, pgd, from = work directory or checkpoint to start from, without = modules to leave
out, joined by +: restoration, front, back, input (denoising), classifier; `undefended`
is the plain ReLU network on which black-box examples are made (trained with
cross-entropy), twin = standard trains the same network with cross-entropy beside it;
`quick` shrinks the run to seconds, `budget=cpu` to 16 px, the 3x3 stem, one block per
stage, width 8 and one epoch, for two CPU cores (what that gives: docs/results.md). The
paper's own setting (100 epochs at 64 px) has not been run with this program.
`--config.eval.suite=fpd2020` attacks as the paper does.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import fpd


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the paper's setting, or the adversarial one of the release."""
    options: Any = common.parse_arg(arg, fpd.ARGUMENTS)
    config: Any = common.base()
    config.data.name = "mnist"
    config.data.image_size = 64
    config.data.validation_examples = 2000
    config.data.augment.update({"rotation": 15.0, "color_jitter": 0.1})
    fpd.use_network(config, options, "mnist", num_classes=10)
    fpd.use_objective(config, noise=0.01, threshold=3.0, weight=1.0)
    config.optimizer.update(
        {
            "name": "adamax",
            "learning_rate": 1e-3,
            "weight_decay": 1e-5,
            "clip_norm": 10.0,
        }
    )
    common.use_radius(config, "0.3", "0.05", steps=40)
    config.attack.step_size = "0.01"
    config.eval.curve.eps = ["0", "0.05", "0.1", "0.15", "0.2", "0.3", "0.4", "1"]
    fpd.use_attack(config, options, delay=10.0)
    if options.adversarial:
        config.train.batch_size = 200
    fpd.finish(config, options, _fit)
    return config


def _fit(config: Any) -> None:
    config.data.image_size = 16
    config.attack.step_size = "0.1"
