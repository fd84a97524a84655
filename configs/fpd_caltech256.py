"""FPD on Caltech-256 (Li et al., CVPR 2020): 224 px, 257 classes, nine tenths to train.

    python -m jaxrobust.main --config configs/fpd_caltech256.py:depth=101

The arguments are those of fpd_mnist.py; the release has no adversarial training here,
so `adversarial` is the setting of SVHN. The paper's own setting (100 epochs) has not
been run with this program.
"""

from ml_collections import ConfigDict

from jaxrobust.training import config as common
from jaxrobust.training.presets import fpd


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the paper's setting."""
    options = common.parse_arg(arg, fpd.ARGUMENTS)
    return fpd.caltech(options, "caltech256", "caltech256", num_classes=257)
