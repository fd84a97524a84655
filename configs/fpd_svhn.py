"""FPD on SVHN (Li et al., CVPR 2020), two phases or adversarial training after them.

    python -m jaxrobust.main --config configs/fpd_svhn.py:depth=101 --workdir runs/fpd
    python -m jaxrobust.main --config configs/fpd_svhn.py:encoder=resnext,depth=50
    python -m jaxrobust.main
      --config configs/fpd_svhn.py:adversarial=pgd,from=runs/fpd --workdir runs/fpd_pgd

The arguments are those of fpd_mnist.py, with 32 px for `budget=cpu`. The paper's own
setting (100 epochs at 64 px) has not been run with this program.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import fpd


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the paper's setting, or the adversarial one of the release."""
    options: Any = common.parse_arg(arg, fpd.ARGUMENTS)
    config: Any = common.base()
    config.data.name = "svhn_cropped"
    config.data.image_size = 64
    config.data.validation_examples = 2000
    fpd.use_network(config, options, "svhn", num_classes=10)
    fpd.use_objective(config, noise=0.01, threshold=3.0, weight=1.0)
    if options.encoder == "resnext":
        config.optimizer.learning_rate = 1e-3
        config.train.batch_size = 100
    common.use_radius(config, "8/255", "2/255", steps=40)
    fpd.use_attack(config, options, delay=0.0)
    if options.adversarial:
        config.optimizer.learning_rate = 1e-5
        config.train.batch_size = 64
    fpd.finish(config, options)
    return config
