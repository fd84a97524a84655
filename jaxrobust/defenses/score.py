"""SCORE (Pang et al., ICML 2022, arXiv 2202.10103)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array

from jaxrobust import losses
from jaxrobust._checks import FINITE, SHARE, check_number
from jaxrobust.array_types import Images, Labels, LogitsFn, LossFn
from jaxrobust.defenses import base
from jaxrobust.models import Outputs


def score(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "train",
    attack_warmup_steps: int = 0,
    beta: float = 4.0,
    slack: float = 0.0,
    label_smoothing: float = 0.0,
) -> base.Defense:
    """TRADES of squared errors, see `losses.score`.

    The attack maximises the squared change of the probabilities, from a uniform sample
    of the ball. `label_smoothing` is the share of the uniform distribution in the
    labels; the release turns it off (`--LSE --ls 0`).

    Raises:
      ValueError: for a weight or an attack out of range.
    """
    check_number("beta", beta, FINITE)
    check_number("slack", slack, FINITE)
    check_number("label_smoothing", label_smoothing, SHARE)
    # At the clean image nothing has changed, and the gradient is 0.
    started = {**attack, "random_start": True}
    prepare = base.attacker(
        model, "pgd", started, attack_bn, attack_warmup_steps, loss=_change_from
    )

    def loss(
        clean: Outputs, attacked: Outputs, y: Labels, step: Array
    ) -> base.LossAndMetrics:
        del step
        y = base.smoothed(y, clean.logits, label_smoothing)
        each = losses.score(clean.logits, attacked.logits, y, beta, slack)
        return each.mean(), {}

    return base.on_outputs(model, loss, base.PAIR, prepare, mixes=True)


def _change_from(logits_fn: LogitsFn, x: Images) -> LossFn:
    """Returns the squared change of the probabilities, the labels unread."""
    # Once, before the attack's loop: the clean prediction does not move.
    clean = jax.nn.softmax(logits_fn(x))
    return lambda logits, y: losses.squared_error(logits, clean)
