"""TRADES (Zhang et al. 2019, arXiv 1901.08573)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxrobust import losses, models
from jaxrobust._checks import FINITE, check_number
from jaxrobust.array_types import Images, Labels, LogitsFn, LossFn
from jaxrobust.defenses import base


def trades(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "eval",
    attack_warmup_steps: int = 0,
    beta: float = 6.0,
) -> base.Defense:
    """Cross-entropy on clean images + `beta` KL(clean || attacked), equation 5.

    The attack maximises the same divergence. It starts at a uniform sample of the ball;
    the released code starts at Gaussian noise of deviation .001.
    """
    check_number("beta", beta, FINITE)
    prepare = base.attacker(
        model,
        "pgd",
        {**attack, "random_start": True},
        attack_bn=attack_bn,
        warmup_steps=attack_warmup_steps,
        loss=_divergence_from,
    )

    def loss(clean: models.Outputs, attacked: models.Outputs, y: Labels) -> base.Found:
        return losses.trades(clean.logits, attacked.logits, y, beta).mean(), {}

    return base.on_pairs(model, loss, prepare)


def _divergence_from(logits_fn: LogitsFn, x: Images) -> LossFn:
    """Returns KL(clean prediction || prediction), the labels unread."""
    # Once, before the attack's loop: the clean prediction does not move.
    clean = logits_fn(x)
    return lambda logits, y: losses.kl_divergence(clean, logits)
