"""Certified training on CIFAR-10: IBP (Gowal et al. 2018) and CROWN-IBP (Zhang et al.).

    python -m jaxrobust.main --config configs/certified_cifar10.py:budget=cpu

Argument, all optional: objective = crown_ibp, ibp or sabr (Mueller et al. 2023), eps =
2/255 or 8/255 (in training and in evaluation; the papers train a little above it),
size = large, medium or small (the networks of Gowal et al.); `quick` shrinks the run to
seconds, `budget=cpu` to the small network, unless another is given, and two epochs, for
two CPU cores. Adam at 5e-4, batches of 128, 200 epochs, the radius growing over the
first half, flips and crops. The full run has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import certified

# The step of attacks, and SABR's small box, by radius.
OF_RADIUS = {"2/255": ("0.5/255", 0.1), "8/255": ("2/255", 0.7)}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for an objective and a radius."""
    options = common.parse_arg(arg, {**certified.ARGUMENTS, "eps": "8/255"})
    if options.eps not in OF_RADIUS:
        raise ValueError(f"`eps` is 2/255 or 8/255, got {options.eps!r}.")
    step, small_box = OF_RADIUS[options.eps]
    config = common.base()
    config.data.update(name="cifar10", validation_examples=2000)
    config.data.augment.update(crop_padding=4, flip=True)
    config.model = ConfigDict(
        {"name": "ibp_cnn", "size": options.size, "num_classes": 10}
    )
    common.use_radius(config, options.eps, step, steps=10)
    certified.use_objective(config, options, small_box, epochs=200.0)
    config.schedule.milestones = (120.0, 160.0)
    config.train.batch_size = 128
    certified.finish(config, options)
    return config
