"""Training on clean, noisy or attacked images (Madry et al. 2018, arXiv 1706.06083)."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import attacks, models
from jaxrobust.array_types import Key, Labels
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params


def standard(model: nn.Module, *, label_smoothing: float = 0.0) -> base.Defense:
    """Cross-entropy on the images as they are."""
    return base.on_images(model, _cross_entropy(label_smoothing))


def _cross_entropy(
    label_smoothing: float,
) -> Callable[[models.Outputs, Labels, Array], base.Found]:
    def loss(out: models.Outputs, y: Labels, step: Array) -> base.Found:
        del step
        loss = base.smoothed_cross_entropy(out.logits, y, label_smoothing)
        return loss.mean(), {}

    return loss


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
        params: Params, model_state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
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
    return base.on_images(model, _cross_entropy(label_smoothing), prepare)
