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
    base.check_attack_bn(attack_bn)
    if not beta >= 0:
        raise ValueError(f"`beta` must be at least 0, got {beta}.")

    def prepare(
        params: base.Params,
        model_state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> dict[str, Array]:
        attacked = base.attacked_fn(
            model, params, model_state, key, attack_bn=attack_bn
        )
        clean = jax.nn.log_softmax(attacked(batch["image"]))

        def divergence(logits: Logits, y: Labels) -> PerExample:
            del y
            return (jnp.exp(clean) * (clean - jax.nn.log_softmax(logits))).sum(-1)

        options = base.at_step(attack, step, attack_warmup_steps)
        x_adv = attacks.pgd(
            attacked,
            batch["image"],
            batch["label"],
            key=batch["key"],
            loss=divergence,
            **{**options, "random_start": True},
        )
        return {"attacked": x_adv}

    def loss(
        params: base.Params,
        model_state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> tuple[Scalar, tuple[base.ModelState, base.Metrics]]:
        del step
        x, x_adv, y = batch["image"], batch["attacked"], batch["label"]
        out, model_state = base.forward(model, params, model_state, x, key)
        out_adv, model_state = base.forward(model, params, model_state, x_adv, key)
        loss = losses.trades(out.logits, out_adv.logits, y, beta).mean()
        metrics = {
            "accuracy": base.accuracy(out.logits, y),
            "robust_accuracy": base.accuracy(out_adv.logits, y),
        }
        return loss, (model_state, metrics)

    return base.Defense((base.Phase(loss, prepare),))
