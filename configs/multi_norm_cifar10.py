"""Training on CIFAR-10 against Linf 8/255, L2 .5 and L1 12 together.

    python -m jaxrobust.main --config configs/multi_norm_cifar10.py:mix=msd

Radii of Maini et al. (ICML 2020) and Croce and Hein (ICML 2022), the rest as
configs/pgd_cifar10.py: ten steps in each ball, batch 128, SGD .1 with momentum .9,
weight decay 5e-4, a tenth at 100 and 150 of 200 epochs. The evaluation attacks in each
norm, and its worst case is over all of them; validation attacks in Linf.

Argument, all optional: mix = max, avg, random (a ball per batch) or msd, model =
preact_resnet (18), wide_resnet (34-10) or cnn3, awp perturbs the weights, ema evaluates
averaged weights (decay .995), twin = standard trains the same network with
cross-entropy beside it; `quick` shrinks the run to seconds, `budget=cpu` to a narrow
network and one epoch, for two CPU cores. The full run has not been made with this
program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import baselines

RADII = {"linf": "8/255", "l2": "0.5", "l1": "12"}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for a mix of the three balls."""
    options = common.parse_arg(arg, {"mix": "max", **baselines.ARGUMENTS})
    config = baselines.start(options, "multi_norm", normalize=True)
    common.use_radius(config, "8/255", "2/255", steps=10)
    config.objective.update(
        mix=options.mix, norms=tuple(RADII), radii=tuple(RADII.values())
    )
    config.schedule.milestones = (100.0, 150.0)
    if options.awp:
        baselines.use_awp(config, gamma=0.01, warmup_epochs=0.0)
    for norm in ("l2", "l1"):
        steps = 2 if options.quick else 20
        apgd = {"name": "apgd", "norm": norm, "eps": RADII[norm], "steps": steps}
        config.eval.attacks[f"apgd_{norm}"] = ConfigDict(apgd)
    baselines.finish(config, options)
    return config
