"""PC loss with logit constraints (Li et al., AAAI 2021, arXiv 2012.07688)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import losses
from jaxrobust._checks import FINITE, SHARE, check_number
from jaxrobust.array_types import Labels
from jaxrobust.defenses import base
from jaxrobust.models import Outputs


def pc_lc(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_name: str = "",
    attack_bn: str = "train",
    attack_warmup_steps: int = 0,
    margin: float = 0.995,
    constraint_weight: float = 0.05,
    warmup_steps: int = 0,
) -> base.Defense:
    """Cross-entropy for `warmup_steps`, then PC + `constraint_weight` * LC.

    Trains on clean images, as the method does; with an `attack_name` (`fgsm`, `pgd`
    ...) both losses are taken on attacked images instead. PC asks for a gap in
    probability of `margin`, in [0, 1].

    Raises:
      ValueError: for a margin, a weight or an attack out of range.
    """
    check_number("margin", margin, SHARE)
    check_number("constraint_weight", constraint_weight, FINITE)
    check_number("warmup_steps", warmup_steps, FINITE)
    seen, prepare = "image", None
    if attack_name:
        seen, prepare = (
            "attacked",
            base.attacker(model, attack_name, attack, attack_bn, attack_warmup_steps),
        )

    def loss(out: Outputs, y: Labels, step: Array) -> base.LossAndMetrics:
        pc = losses.pc(out.logits, y, margin).mean()
        constraint = losses.logit_constraint(out.logits, y).mean()
        loss = pc + constraint_weight * constraint
        if warmup_steps:
            warm = losses.cross_entropy(out.logits, y).mean()
            # PC is nearly flat where all classes are as likely, as at the start.
            loss = jnp.where(step < warmup_steps, warm, loss)
        return loss, {"pc": pc, "logit_constraint": constraint}

    return base.on_outputs(model, loss, [seen], prepare)
