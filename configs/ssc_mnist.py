"""SSC-DM on MNIST and Fashion-MNIST: LeNet with sigmoids, structure of the batch.

    python -m jaxrobust.main --config configs/ssc_mnist.py:budget=cpu,twin=standard
    python -m jaxrobust.main --config configs/ssc_mnist.py:attack=mim \
        --config.data.name=fashion_mnist

Argument, all optional: variant = ssc or rcc (pairs of one class, rows by cosine),
attack = fgsm (eps .03), pgd (.3), mim (.1) or bim (.05), distance = euc, manhattan or
cos, weight = lambda (10, 50, 100, 300, 500, 1000 in the paper), embedding = logits or
penultimate, twin = standard trains the same network with cross-entropy beside it;
`quick` shrinks the run to seconds, `budget=cpu` to six epochs with Adam, for two CPU
cores (what that gives: docs/results.md). The release's 20 epochs of SGD have not been
run with this program; after three of them the network is still at chance.
`--config.eval.suite=ssc2024` attacks as the paper does.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import ssc


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the release's setting for an attack, a distance and a weight."""
    options = common.parse_arg(arg, ssc.ARGUMENTS)
    config = common.base()
    config.data.name = "mnist"
    config.model = ConfigDict({"name": "lenet_sigmoid", "num_classes": 10})
    common.use_radius(config, "0.1", "0.02", steps=10)
    config.eval.curve.eps = ["0", "0.05", "0.1", "0.15", "0.2", "0.3", "1"]
    ssc.use_objective(config, options)
    common.finish(config, options, ssc.fit)
    return config
