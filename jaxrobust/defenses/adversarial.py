"""Training on clean, noisy or attacked images (Madry et al. 2018, arXiv 1706.06083)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import attacks
from jaxrobust.array_types import Key, Scalar
from jaxrobust.defenses import base


def standard(model: nn.Module, *, label_smoothing: float = 0.0) -> base.Defense:
    """Cross-entropy on the images as they are."""

    def loss(
        params: base.Params,
        model_state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> tuple[Scalar, tuple[base.ModelState, base.Metrics]]:
        del step
        out, model_state = base.forward(model, params, model_state, batch["image"], key)
        y = batch["label"]
        loss = base.smoothed_cross_entropy(out.logits, y, label_smoothing).mean()
        return loss, (model_state, {"accuracy": base.accuracy(out.logits, y)})

    return base.Defense((base.Phase(loss),))


def ball(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    draws: int = 5,
    label_smoothing: float = 0.0,
) -> base.Defense:
    """Cross-entropy on `draws` uniform samples of the ball around each image.

    The batch becomes `draws` times as large (Kim et al. 2020, section 4, `ball`).
    """
    noise = {k: attack[k] for k in ("eps", "norm", "bounds") if k in attack}

    def loss(
        params: base.Params,
        model_state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> tuple[Scalar, tuple[base.ModelState, base.Metrics]]:
        del step
        x = attacks.uniform_noise(
            batch["image"], key=batch["key"], draws=draws, **noise
        )
        # `uniform_noise` puts the draws of an image side by side.
        y = jnp.repeat(batch["label"], draws, axis=0)
        out, model_state = base.forward(model, params, model_state, x, key)
        loss = base.smoothed_cross_entropy(out.logits, y, label_smoothing).mean()
        return loss, (model_state, {"robust_accuracy": base.accuracy(out.logits, y)})

    return base.Defense((base.Phase(loss),))


def adversarial(
    name: str,
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "train",
    attack_warmup_steps: int = 0,
    label_smoothing: float = 0.0,
) -> base.Defense:
    """Cross-entropy on attacked images: `fgsm`, `bim`, `mim` or `pgd` training.

    `fgsm` takes one step of length eps, whatever `attack` says of steps. The radius
    grows over the first `attack_warmup_steps` steps (`base.at_step`).
    """
    prepare = base.attacker(
        model, name, attack, attack_bn=attack_bn, warmup_steps=attack_warmup_steps
    )

    def loss(
        params: base.Params,
        model_state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> tuple[Scalar, tuple[base.ModelState, base.Metrics]]:
        del step
        x_adv, y = batch["attacked"], batch["label"]
        out, model_state = base.forward(model, params, model_state, x_adv, key)
        loss = base.smoothed_cross_entropy(out.logits, y, label_smoothing).mean()
        return loss, (
            model_state,
            {"robust_accuracy": base.accuracy(out.logits, y)},
        )

    return base.Defense((base.Phase(loss, prepare),))
