"""TRADES on CIFAR-10 with generated images (Gowal et al. 2021, Wang et al. 2023).

    python -m jaxrobust.main --config configs/trades_ddpm_cifar10.py:extra=PATH

WRN-28-10 with swish, as Wang et al. (ICML 2023, arXiv 2302.04638) run it with a million
images of a diffusion model: 70% of each batch of 512, all labels smoothed by .1, TRADES
with beta 5 (the attack in train mode), SGD .2 with Nesterov momentum .9 and weight
decay 5e-4, a cosine, 400 epochs, averaged weights (decay .995). An epoch is as many
images as CIFAR-10 has. PATH is an .npz with `image`, uint8 [N, 32, 32, 3], and `label`:
the releases' cifar10_ddpm.npz (Gowal et al., NeurIPS 2021, arXiv 2110.09468) or 1m.npz
(Wang et al.), for example; more of them than half of the memory holds are refused.
What the release does otherwise: docs/methods/recipes.md.

Argument, all optional: extra, without which CIFAR-10 is all there is, share = percent
of a batch, objective = trades or score (Pang et al., ICML 2022: beta 4, labels as they
are), cutmix mixes images (Rebuffi et al. 2021), awp perturbs the weights, twin =
standard trains the same network with cross-entropy beside it; `quick` shrinks the run
to seconds, `budget=cpu` to a narrow network and one epoch, for two CPU cores. The full
run has not been made with this program.
"""

from ml_collections import ConfigDict

from jaxrobust._checks import check_choice
from jaxrobust.training import config as common
from jaxrobust.training.presets import baselines

ARGUMENTS: dict[str, str | int | bool] = {
    "extra": "",
    "share": 70,
    "objective": "trades",
    "cutmix": False,
    "awp": False,
    **common.FINISHING,
}
BETAS = {"trades": 5.0, "score": 4.0}
SMOOTHING = {"trades": 0.1, "score": 0.0}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for a file of extra images, or for none."""
    options = common.parse_arg(arg, ARGUMENTS)
    check_choice("objective", options.objective, BETAS)
    if options.share > 99:
        raise ValueError(f"`share` is in percent, 0 to 99, got {options.share}.")
    options.update(model="wide_resnet", ema=True)
    config = baselines.start(options, options.objective, normalize=True)
    config.model.update(depth=28, activation="swish", same_padding=True)
    config.data.extra.update(file=options.extra, share=options.share / 100)
    config.data.mix.cutmix = 1.0 if options.cutmix else 0.0
    common.use_radius(config, "8/255", "2/255", steps=10)
    config.objective.update(
        beta=BETAS[options.objective],
        attack_bn="train",
        label_smoothing=SMOOTHING[options.objective],
    )
    if options.awp:
        config.objective.awp_gamma = 0.005
    config.optimizer.update(learning_rate=0.2, nesterov=True)
    config.schedule.name = "cosine"
    config.train.update(epochs=400.0, batch_size=512)
    baselines.finish(config, options)
    return config
