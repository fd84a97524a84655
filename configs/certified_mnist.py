"""Certified training on MNIST: IBP (Gowal et al. 2018) and CROWN-IBP (Zhang et al.).

    python -m jaxrobust.main --config configs/certified_mnist.py:budget=cpu

Argument, all optional: objective = crown_ibp, ibp or sabr (Mueller et al. 2023), eps =
0.1 or 0.3 (its radius in training and in evaluation; the papers train above it, at 0.2
and 0.4: `--config.attack.eps=0.2`), size = large, medium or small (the networks of
Gowal et al.); `quick` shrinks the run to seconds, `budget=cpu` to the small network,
unless another is given, and two epochs, for two CPU cores (what that gives:
docs/results.md). Adam at 5e-4, batches of 100, 100 epochs, the radius growing over the
first half. The full run has not been made with this program. Evaluation proves by IBP
(by CROWN what sabr trained), beside the attacks.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import certified


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for an objective and a radius."""
    options = common.parse_arg(arg, {**certified.ARGUMENTS, "eps": "0.1"})
    config = common.base()
    config.data.name = "mnist"
    config.data.validation_examples = 2000
    config.model = ConfigDict(
        {"name": "ibp_cnn", "size": options.size, "num_classes": 10}
    )
    step = str(float(options.eps) / 5)
    common.use_radius(config, options.eps, step, steps=10)
    small_box = 0.4 if options.eps == "0.1" else 0.6
    certified.use_objective(config, options, small_box, epochs=100.0)
    config.schedule.milestones = (65.0, 90.0)
    config.train.batch_size = 100
    certified.finish(config, options)
    return config
