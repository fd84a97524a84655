"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxrobust import losses
from jaxrobust._checks import FINITE, check_number
from jaxrobust.array_types import Labels
from jaxrobust.defenses import base
from jaxrobust.models import Outputs


def mart(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "eval",
    attack_warmup_steps: int = 0,
    beta: float = 5.0,
) -> base.Defense:
    """Boosted cross-entropy on attacked images + `beta` KL weighted by 1 - p_y.

    See `losses.mart`. The attack is PGD on cross-entropy from a uniform sample of the
    ball; the released code starts at Gaussian noise of deviation .001.
    """
    check_number("beta", beta, FINITE)
    started = {**attack, "random_start": True}
    prepare = base.attacker(model, "pgd", started, attack_bn, attack_warmup_steps)

    def loss(
        clean: Outputs, attacked: Outputs, y: Labels, step: Array
    ) -> base.LossAndMetrics:
        del step
        return losses.mart(clean.logits, attacked.logits, y, beta).mean(), {}

    return base.on_outputs(model, loss, base.PAIR, prepare)
