"""PGD training on ImageNet (Madry et al., ICLR 2018; Salman et al., NeurIPS 2020).

    python -m jaxrobust.main --config configs/pgd_imagenet.py

ResNet-50 at Linf 4/255, one of the networks of Salman et al. (arXiv 2007.08489), with 3
steps of 8/3 / 255 (our choice), batch 512, SGD .1 with momentum .9, weight decay 1e-4,
a tenth every 30 of 90 epochs, random resized crops and flips at 224 px. Images come
from TFDS (`imagenet2012`, prepared beforehand; its validation split is the test split)
and stream.

Argument, all optional: depth = 18, 34, 50 or 101, free = m replays of a batch (Shafahi
et al. 2019, `free` in place of `pgd`, 90/m epochs), ema evaluates averaged weights
(decay .9999), twin = standard trains the same network with cross-entropy beside it;
`quick` shrinks the run to seconds, `budget=cpu` to a narrow ResNet-18, 32 px and a
twentieth of an epoch, for two CPU cores. The full run has not been made with this
program.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxrobust.training import config as common

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARGUMENTS: dict[str, str | int | bool] = {
    "depth": 50,
    "free": 0,
    "ema": False,
    **common.FINISHING,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the setting for a depth."""
    options = common.parse_arg(arg, ARGUMENTS)
    config = common.base()
    config.data.update(name="tfds:imagenet2012", image_size=224, feed="stream")
    config.data.validation_examples = 5000
    config.data.augment.update(random_resized_crop=0.08, flip=True)
    config.model = {
        "name": "resnet",
        "depth": options.depth,
        "stem": "imagenet",
        "width": 64,
        "num_classes": 1000,
        "mean": MEAN,
        "std": STD,
    }
    config.objective.name = "pgd"
    common.use_radius(config, "4/255", "1/255", steps=3)
    config.attack.step_size = "2.6667/255"
    config.optimizer.update(weight_decay=1e-4, nesterov=False)
    config.schedule.milestones = (30.0, 60.0)
    config.train.update(epochs=90.0, batch_size=512, validate_every_epochs=1.0)
    if options.ema:
        config.train.ema = 0.9999
    if options.free:
        _use_free(config, options.free)
    common.finish(config, options, lambda c: _fit(c, options), width=4, depth=18)
    return config


def _use_free(config: Any, replays: int) -> None:
    config.objective.update(name="free", replays=replays)
    config.train.epochs /= replays
    drops = config.schedule.milestones
    config.schedule.milestones = tuple(epoch / replays for epoch in drops)


def _fit(config: Any, options: Any) -> None:
    """Cuts down to a narrow ResNet-18 on small images."""
    common.fit_cpu(config, epochs=0.05)
    config.data.image_size = 32
    config.model.update(width=8, stem="cifar")
    if not common.given(options, "depth"):
        config.model.depth = 18
    config.train.batch_size = 128
