"""PC loss with logit constraints on MNIST (Li et al., AAAI 2021).

    python -m jaxrobust.main --config configs/pclc_mnist.py:budget=cpu,twin=standard

Argument, all optional: model = lenet5 or cnn3, attack = none (the method) or fgsm, pgd
... (both losses on attacked images), from = work directory or checkpoint that stands
for the cross-entropy phase, twin = standard trains the same network with cross-entropy
beside it; `quick` shrinks the run to seconds, `budget=cpu` to two epochs of
cross-entropy and four of PC-LC, for two CPU cores (what that gives: docs/results.md).
The 150 + 150 epochs have not been run with this program. Images are not augmented: the
release's mirroring is for photographs. `--config.eval.suite=pclc2021` attacks as the
paper does.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import pclc


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the release's setting for a network."""
    options = common.parse_arg(arg, {"model": "lenet5", **pclc.ARGUMENTS})
    config = common.base()
    config.data.name = "mnist"
    config.model = ConfigDict({"name": options.model, "num_classes": 10})
    common.use_radius(config, "0.1", "0.02", steps=10)
    config.eval.curve.eps = ["0", "0.05", "0.1", "0.15", "0.2", "0.3", "1"]
    pclc.use_objective(config, options.attack, options["from"])
    pclc.finish(config, options)
    return config
