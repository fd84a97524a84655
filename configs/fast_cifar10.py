"""Fast adversarial training on CIFAR-10: one step of attack, or none of its own.

    python -m jaxrobust.main --config configs/fast_cifar10.py:method=noise

The releases' settings at 8/255, batch 128, SGD with momentum .9, weight decay 5e-4, a
triangle of the rate with its peak in the middle:

    method   paper                                   step    rate  epochs
    rs       FGSM-RS, Wong et al., ICLR 2020         10/255  .2    15
    noise    N-FGSM (k 2), de Jorge et al. 2022      8/255   .2    30
    align    FGSM + GradAlign (.2), Andriushchenko
             and Flammarion, NeurIPS 2020            8/255   .3    30
    free     free-m (8), Shafahi et al. 2019, as
             Wong et al. run it                      8/255   .04   11
    fgsm     FGSM, which is likely to collapse       8/255   .2    30

Argument, all optional: method, as above, replays = m of free, model = preact_resnet
(18), wide_resnet (34-10) or cnn3, awp perturbs the weights, ema evaluates averaged
weights (decay .995), twin = standard trains the same network with cross-entropy beside
it; `quick` shrinks the run to seconds, `budget=cpu` to a narrow network and one epoch,
for two CPU cores. The full run has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust._checks import check_choice
from jaxrobust.training import config as common
from jaxrobust.training.presets import baselines

# Step, rate, epochs and fields of the objective.
METHODS = {
    "rs": ("10/255", 0.2, 15.0, {"start": "ball"}),
    "noise": ("8/255", 0.2, 30.0, {"start": "noise", "noise": 2.0}),
    "align": ("8/255", 0.3, 30.0, {"start": "image", "grad_align": 0.2}),
    "free": ("8/255", 0.04, 11.0, {}),
    "fgsm": ("8/255", 0.2, 30.0, {"start": "image"}),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting of a method."""
    own = {"method": "rs", "replays": 8}
    options = common.parse_arg(arg, {**own, **baselines.ARGUMENTS})
    check_choice("method", options.method, METHODS)
    step_size, rate, epochs, objective = METHODS[options.method]
    free = options.method == "free"
    config = baselines.start(options, "free" if free else "fast", normalize=True)
    common.use_radius(config, "8/255", "2/255", steps=1)
    config.attack.step_size = step_size
    if free:
        config.objective.replays = 2 if options.quick else options.replays
    else:  # all fields, so that each can be set by --config.objective
        fields = {"start": "ball", "noise": 2.0, "grad_align": 0.0}
        config.objective.update({**fields, **objective})
    if options.awp:
        config.objective.awp_gamma = 0.01
    config.optimizer.learning_rate = rate
    config.train.epochs = epochs
    baselines.finish(config, options)
    config.schedule.name = "cyclic"
    return config
