"""Randomised smoothing on CIFAR-10: Cohen et al. 2019, Salman et al. 2019, MACER.

    python -m jaxrobust.main --config configs/smoothing_cifar10.py:budget=cpu

Argument, all optional: objective = gaussian, smooth_adv (PGD of ten steps in L2, two
draws, its radius growing over ten epochs) or macer (Zhai et al. 2020: 16 draws, SGD
.01, weight decay 5e-4, a tenth at 200 and 400 of 440 epochs, batches of 64), sigma =
0.25 of training and of evaluation; `quick` shrinks the run to seconds, `budget=cpu` to
a narrow network and a few epochs, for two CPU cores. Cohen's setting: ResNet-110, SGD
.1 with momentum .9, weight decay 1e-4, a tenth each 30 of 90 epochs, batches of 400;
500 test images, 100 draws to choose a class and 100,000 to certify it, alpha .001. The
full run has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust._checks import check_choice
from jaxrobust.training import config as common

OBJECTIVES = ("gaussian", "smooth_adv", "macer")
DEFAULTS = {"objective": "gaussian", "sigma": 0.25, "budget": "", "quick": False}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for an objective and a standard deviation."""
    options = common.parse_arg(arg, DEFAULTS)
    check_choice("objective", options.objective, OBJECTIVES)
    check_choice("budget", options.budget, ("", "cpu"))
    config = common.base()
    config.data.update(name="cifar10", validation_examples=2000)
    config.data.augment.update(crop_padding=4, flip=True)
    config.model = ConfigDict({"name": "resnet_cifar", "depth": 110, "num_classes": 10})
    sigma = options.sigma
    config.objective.update(name=options.objective, sigma=sigma, noise_draws=1)
    if options.objective == "smooth_adv":
        config.objective.update(noise_draws=2, attack_warmup_epochs=10.0)
    common.use_radius(config, "0.25", "0.05", steps=10)
    balls = config.attack, config.validation.attack, *config.eval.attacks.values()
    for ball in balls:
        ball.norm = "l2"
    config.optimizer.update(weight_decay=1e-4, nesterov=False)
    config.schedule.milestones = (30.0, 60.0)
    config.train.update(batch_size=400, epochs=90.0)
    if options.objective == "macer":
        config.objective.update(noise_draws=16)
        config.optimizer.update(learning_rate=0.01, weight_decay=5e-4)
        config.schedule.milestones = (200.0, 400.0)
        config.train.update(batch_size=64, epochs=440.0)
    smoothing = {"sigma": sigma, "n0": 100, "n": 100_000, "alpha": 0.001}
    config.eval.certify.update(enabled=True, method="", examples=500, **smoothing)
    if options.budget == "cpu":
        common.fit_cpu(config, epochs=6.0)
        config.model = ConfigDict({"name": "cnn3", "width": 16, "num_classes": 10})
        config.optimizer.update(name="adam", learning_rate=1e-3, weight_decay=0.0)
        config.schedule.milestones = (4.0, 5.0)
        config.attack.update(steps=2, step_size="0.25")
        config.objective.noise_draws = min(4, config.objective.noise_draws)
        if config.objective.attack_warmup_epochs:
            config.objective.attack_warmup_epochs = 1.0
        config.eval.certify.update(examples=500, n=1000)
    if options.quick:
        common.shrink(config)
        config.model = ConfigDict({"name": "cnn3", "width": 4, "num_classes": 10})
        config.eval.certify.method = ""
        config.objective.attack_warmup_epochs = 0.0
    return config
