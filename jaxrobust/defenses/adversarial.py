"""Training on clean, noisy or attacked images (Madry et al. 2018, arXiv 1706.06083)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxrobust import attacks, losses
from jaxrobust.array_types import Key, Labels, Logits, PerExample, Scalar
from jaxrobust.defenses import base


def smoothed_cross_entropy(
    logits: Logits, y: Labels, label_smoothing: float
) -> PerExample:
    """Cross-entropy [B] with labels mixed with the uniform distribution."""
    if label_smoothing == 0:
        return losses.cross_entropy(logits, y)
    targets = optax.smooth_labels(
        jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype), label_smoothing
    )
    return optax.softmax_cross_entropy(logits, targets)


def accuracy(logits: Logits, y: Labels) -> Scalar:
    """Share of the batch that is classified as labelled."""
    return jnp.mean(jnp.argmax(logits, -1) == y)


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
        loss = smoothed_cross_entropy(out.logits, y, label_smoothing).mean()
        return loss, (model_state, {"accuracy": accuracy(out.logits, y)})

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
        y = jnp.repeat(batch["label"], draws, axis=0)
        out, model_state = base.forward(model, params, model_state, x, key)
        loss = smoothed_cross_entropy(out.logits, y, label_smoothing).mean()
        return loss, (model_state, {"robust_accuracy": accuracy(out.logits, y)})

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
    base.check_attack_bn(attack_bn)
    skipped = ("steps", "step_size") if name == "fgsm" else ()
    options = {k: v for k, v in attack.items() if k not in skipped}
    attacks.get(name, **options)  # finds mistakes now

    def loss(
        params: base.Params,
        model_state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> tuple[Scalar, tuple[base.ModelState, base.Metrics]]:
        x, y = batch["image"], batch["label"]
        attacked = base.attacked_fn(
            model, params, model_state, key, attack_bn=attack_bn
        )
        make = attacks.get(name, **base.at_step(options, step, attack_warmup_steps))
        x_adv = make(attacked, x, y, batch["key"])
        out, model_state = base.forward(model, params, model_state, x_adv, key)
        loss = smoothed_cross_entropy(out.logits, y, label_smoothing).mean()
        return loss, (model_state, {"robust_accuracy": accuracy(out.logits, y)})

    return base.Defense((base.Phase(loss),))
