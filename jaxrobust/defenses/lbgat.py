"""LBGAT: learnable boundary guided training (Cui et al., ICCV 2021, 2011.11164)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxrobust import losses
from jaxrobust._checks import FINITE, check_number
from jaxrobust.array_types import Key
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params
from jaxrobust.defenses.second import SecondNetwork
from jaxrobust.defenses.trades import divergence_attacker


def lbgat(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    guide: nn.Module | None = None,
    attack_bn: str = "eval",
    attack_warmup_steps: int = 0,
    beta: float = 0.0,
) -> base.Defense:
    """Logits on attacked images follow those of a guide on the clean ones.

    See `losses.lbgat`. The guide learns by cross-entropy meanwhile, from scratch and by
    the same optimiser; it is no part of the trained network. The attack is that of
    `trades`.

    Args:
      model: a Linen module.
      attack: hyperparameters of PGD.
      guide: a network for the same images and classes; `model`'s kind by default.
      attack_bn: see `base.attacker`.
      attack_warmup_steps: see `base.at_step`.
      beta: weight of the divergence of TRADES, at least 0.

    Raises:
      ValueError: for a `beta` or radius out of range; from `init` for a guide of other
        classes or images.
    """
    check_number("beta", beta, FINITE)
    second = SecondNetwork(model if guide is None else guide, "guide", model)

    def loss(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        del step
        attacked, state = base.forward(model, params, state, batch["attacked"], key)
        clean, state = base.forward(model, params, state, batch["image"], key)
        guided = second.logits(params, batch["image"], key)
        terms = clean.logits, attacked.logits, guided
        value = losses.lbgat(*terms, base.targets(batch), beta).mean()
        names = ("accuracy", "robust_accuracy", "guide_accuracy")
        metrics = {
            name: base.accuracy(logits, batch["label"])
            for name, logits in zip(names, terms, strict=True)
        }
        return value, (state, metrics)

    prepare = divergence_attacker(model, attack, attack_bn, attack_warmup_steps)
    phases = (base.Phase(loss, prepare),)
    return base.Defense(phases, second.init, second.labels, mixes=True)
