"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxrobust import losses
from jaxrobust.array_types import Key, Scalar
from jaxrobust.defenses import base


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
    base.check_at_least("beta", beta)
    prepare = base.attacker(
        model,
        "pgd",
        {**attack, "random_start": True},
        attack_bn=attack_bn,
        warmup_steps=attack_warmup_steps,
    )

    def loss(
        params: base.Params,
        model_state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> tuple[Scalar, tuple[base.ModelState, base.Metrics]]:
        del step
        (out, out_adv), model_state, metrics = base.forward_pair(
            model, params, model_state, batch, key
        )
        loss = losses.mart(out.logits, out_adv.logits, batch["label"], beta)
        return loss.mean(), (model_state, metrics)

    return base.Defense((base.Phase(loss, prepare),))
