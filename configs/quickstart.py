"""Quickstart: a small residual network on digits, trained plainly and adversarially.

    python -m jaxrobust.main --config configs/quickstart.py

No download. Trains the same network twice for the same epochs, attacks 128 test images
with AutoAttack and simpler attacks at one radius, and writes
runs/quickstart/report.html. The network is the SSP paper's for MNIST with one plain
residual block per stage; `--config.model.integrator=ssp2` makes them SSP-RK2 blocks.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the config; `quick` shrinks it to seconds."""
    options = common.parse_arg(arg, {"quick": False})
    config = common.base()
    config.twin = "standard"
    config.quick_compile = True
    config.data.name = "digits"
    config.data.image_size = 12  # 8 x 8 enlarged: the network has two strides
    config.data.validation_examples = 150
    config.data.test_examples = 128
    config.data.augment.crop_padding = 1
    config.model = ConfigDict(
        {
            "name": "ssp_mnist",
            "integrator": "res",
            "blocks": 1,
            "width": 16,
            "norm": "b",
            "num_classes": 10,
        }
    )
    common.use_radius(config, "0.1", "0.03", steps=4)
    config.optimizer.learning_rate = 0.5
    config.schedule = ConfigDict({**config.schedule, "name": "cosine"})
    config.train.epochs = 10.0
    config.train.batch_size = 64
    config.train.validate_every_epochs = 5.0
    config.validation.batch_size = 150
    config.eval.batch_size = 128
    config.eval.attacks.autoattack = ConfigDict(
        {"name": "autoattack", "norm": "linf", "eps": "0.1", "slots": 80}
    )
    config.eval.curve.eps = ["0", "0.05", "0.1", "0.15", "0.2", "0.3", "0.5", "1"]
    config.eval.curve.examples = 128
    config.eval.growth.examples = 128
    config.eval.analysis.enabled = False
    if options.quick:
        config.train.epochs = 1.0
        config.train.validate_every_epochs = 1.0
        config.data.test_examples = 64
        config.eval.batch_size = 64
        config.eval.curve.examples = 64
        del config.eval.attacks.autoattack
        config.eval.diagnostics.steps = 5
    return config
