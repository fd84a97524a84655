"""TRADES (Zhang et al. 2019, arXiv 1901.08573)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import attacks, losses
from jaxrobust.array_types import Key, Labels, Logits, PerExample, Scalar
from jaxrobust.defenses import base
from jaxrobust.defenses.adversarial import accuracy


def trades(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "eval",
    beta: float = 6.0,
) -> base.Defense:
    """Cross-entropy on clean images + `beta` KL(clean || attacked), equation 5.

    The attack maximises the same divergence. It starts at a uniform sample of the ball;
    the released code starts at Gaussian noise of deviation .001.
    """
    base.check_attack_bn(attack_bn)
    if not beta >= 0:
        raise ValueError(f"`beta` must be at least 0, got {beta}.")

    def loss(
        params: base.Params,
        model_state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> tuple[Scalar, tuple[base.ModelState, base.Metrics]]:
        del step
        x, y = batch["image"], batch["label"]
        attacked = base.attacked_fn(
            model, params, model_state, key, attack_bn=attack_bn
        )
        clean = jax.nn.log_softmax(attacked(x))

        def divergence(logits: Logits, y: Labels) -> PerExample:
            del y
            return (jnp.exp(clean) * (clean - jax.nn.log_softmax(logits))).sum(-1)

        x_adv = attacks.pgd(
            attacked,
            x,
            y,
            key=batch["key"],
            loss=divergence,
            **{**attack, "random_start": True},
        )
        out, model_state = base.forward(model, params, model_state, x, key)
        out_adv, model_state = base.forward(model, params, model_state, x_adv, key)
        loss = losses.trades(out.logits, out_adv.logits, y, beta).mean()
        metrics = {
            "accuracy": accuracy(out.logits, y),
            "robust_accuracy": accuracy(out_adv.logits, y),
        }
        return loss, (model_state, metrics)

    return base.Defense((base.Phase(loss),))
