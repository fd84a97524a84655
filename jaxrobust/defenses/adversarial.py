"""Training on clean, noisy or attacked images (Madry et al. 2018, arXiv 1706.06083)."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import attacks
from jaxrobust.array_types import Key, Labels
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params
from jaxrobust.models import Outputs


def standard(model: nn.Module, *, label_smoothing: float = 0.0) -> base.Defense:
    """Cross-entropy on the images as they are."""
    return base.on_outputs(model, _loss(label_smoothing), ["image"], mixes=True)


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
    noise["draws"] = draws

    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        del step
        x = attacks.uniform_noise(batch["image"], key=batch["key"], **noise)
        # `uniform_noise` puts the draws of an image side by side.
        label, y = (
            jnp.repeat(one, draws, axis=0)
            for one in (batch["label"], base.targets(batch))
        )
        out, model_state = base.forward(model, params, model_state, x, key)
        metrics = {"robust_accuracy": base.accuracy(out.logits, label)}
        value = base.smoothed_cross_entropy(out.logits, y, label_smoothing)
        return value, (model_state, metrics)

    return base.Defense((base.Phase(loss),), mixes=True)


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

    `fgsm` takes one step of length eps, whatever `attack` says of steps.
    """
    prepare = base.attacker(model, name, attack, attack_bn, attack_warmup_steps)
    loss = _loss(label_smoothing)
    return base.on_outputs(model, loss, ["attacked"], prepare, mixes=True)


def _loss(
    label_smoothing: float,
) -> Callable[[Outputs, Labels, Array], base.LossAndMetrics]:
    return lambda out, y, step: (
        base.smoothed_cross_entropy(out.logits, y, label_smoothing),
        {},
    )
