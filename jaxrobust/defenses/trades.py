"""TRADES (Zhang et al. 2019, arXiv 1901.08573)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxrobust import losses
from jaxrobust._checks import FINITE, check_number
from jaxrobust.array_types import Images, Labels, LogitsFn, LossFn
from jaxrobust.defenses import base
from jaxrobust.models import Outputs


def trades(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "eval",
    attack_warmup_steps: int = 0,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
) -> base.Defense:
    """Cross-entropy on clean images + `beta` KL(clean || attacked), equation 5.

    The attack maximises the same divergence. It starts at a uniform sample of the ball;
    the released code starts at Gaussian noise of deviation .001.
    """
    check_number("beta", beta, FINITE)
    prepare = divergence_attacker(model, attack, attack_bn, attack_warmup_steps)

    def loss(
        clean: Outputs, attacked: Outputs, y: Labels, step: Array
    ) -> base.LossAndMetrics:
        del step
        y = base.smoothed(y, clean.logits, label_smoothing)
        return losses.trades(clean.logits, attacked.logits, y, beta).mean(), {}

    return base.on_outputs(model, loss, base.PAIR, prepare, mixes=True)


def divergence_attacker(
    model: nn.Module, attack: Mapping[str, Any], attack_bn: str, warmup_steps: int
) -> base.Prepare:
    """Returns `base.attacker` of PGD on KL(clean prediction || prediction)."""
    # At the clean image the divergence is at its least, its gradient 0.
    started = {**attack, "random_start": True}
    return base.attacker(
        model, "pgd", started, attack_bn, warmup_steps, loss=_divergence_from
    )


def _divergence_from(logits_fn: LogitsFn, x: Images) -> LossFn:
    """Returns KL(clean prediction || prediction), the labels unread."""
    # Once, before the attack's loop: the clean prediction does not move.
    clean = logits_fn(x)
    return lambda logits, y: losses.kl_divergence(clean, logits)
