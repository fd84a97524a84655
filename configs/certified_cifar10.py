"""Certified training on CIFAR-10: IBP (Gowal et al. 2018) and CROWN-IBP (Zhang et al.).

    python -m jaxrobust.main --config configs/certified_cifar10.py:budget=cpu

Argument, all optional: objective = crown_ibp, ibp or sabr (Mueller et al. 2023), eps =
2/255 or 8/255 (in training and in evaluation; the papers train a little above it);
`quick` shrinks the run to seconds, `budget=cpu` to a narrow network and two epochs, for
two CPU cores. Adam at 5e-4, batches of 128, 200 epochs, the radius growing over the
first half, flips and crops. The network is the three convolutions of `certified_mnist`,
where the papers have seven. The full run has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for an objective and a radius."""
    options = common.parse_arg(
        arg, {"objective": "crown_ibp", "eps": "8/255", "budget": "", "quick": False}
    )
    if options.eps not in ("2/255", "8/255"):
        raise ValueError(f"`eps` is 2/255 or 8/255, got {options.eps!r}.")
    config = common.base()
    config.data.name = "cifar10"
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    config.model = ConfigDict({"name": "cnn3", "width": 32, "num_classes": 10})
    step = {"2/255": "0.5/255", "8/255": "2/255"}[options.eps]
    common.use_radius(config, options.eps, step, steps=10)
    config.objective.name = options.objective
    config.objective.kappa = 0.5
    if options.objective == "sabr":
        # The share of the radius that the small box has, as in the paper.
        small = 0.1 if options.eps == "2/255" else 0.7
        config.objective.update(kappa=0.0, small_box=small)
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 0.0
    config.schedule.milestones = (120.0, 160.0)
    config.train.batch_size = 128
    config.train.epochs = 200.0
    config.objective.attack_warmup_epochs = 100.0
    proof = "crown" if options.objective == "sabr" else "ibp"
    config.eval.certify.update(enabled=True, method=proof, examples=1000)
    if options.budget == "cpu":
        common.fit_cpu(config, epochs=2.0)
        config.model.width = 8
        config.objective.attack_warmup_epochs = 1.0
        config.schedule.milestones = (1.5,)
        config.eval.certify.examples = 200
    elif options.budget:
        raise ValueError(f"`budget` is cpu or left out, got {options.budget!r}.")
    if options.quick:
        common.shrink(config)
        config.objective.attack_warmup_epochs = 0.5
    return config
