"""Certified training: the loss of what is proved, not of what an attack finds.

IBP of Gowal et al. 2018 (arXiv 1810.12715), CROWN-IBP of Zhang et al. 2020 (arXiv
1906.06316).
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import certify, losses, models
from jaxrobust._checks import (
    FINITE,
    NORMS,
    SHARE,
    check_norm,
    check_number,
    check_radius,
)
from jaxrobust.array_types import Images, Key, Labels, Logits, LogitsFn, Scalar
from jaxrobust.defenses import base

# (logits_fn, x, y, radius, norm, how far the warm-up is) -> logits
Worst = Callable[[LogitsFn, Images, Labels, Scalar, Any, Array], Logits]


def ibp(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_warmup_steps: int = 0,
    kappa: float = 0.5,
) -> base.Defense:
    """Cross-entropy of the logits that intervals bound, equation 12 of Gowal et al.

    `kappa` of the loss is of the clean images. Over the first `attack_warmup_steps` the
    radius, that of `attack`, grows from 0, and the clean share falls from 1. The bounds
    are of the network with its running statistics.
    """

    def worst(logits_fn, x, y, eps, norm, share) -> Logits:
        del share
        return certify.worst_logits(logits_fn, x, y, eps=eps, norm=norm, method="ibp")

    return _trained(model, attack, attack_warmup_steps, kappa, worst)


def crown_ibp(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_warmup_steps: int = 0,
    kappa: float = 0.5,
) -> base.Defense:
    """As `ibp`, with bounds of CROWN-IBP that become those of IBP during the warm-up.

    Equation 12 of Zhang et al.: their share of the bounds falls from 1 to 0 there.
    """

    def worst(logits_fn, x, y, eps, norm, share) -> Logits:
        tight, wide = (
            certify.worst_logits(logits_fn, x, y, eps=eps, norm=norm, method=method)
            for method in ("crown_ibp", "ibp")
        )
        return (1 - share) * tight + share * wide

    return _trained(model, attack, attack_warmup_steps, kappa, worst)


def _trained(
    model: nn.Module,
    attack: Mapping[str, Any],
    warmup_steps: int,
    kappa: float,
    worst: Worst,
) -> base.Defense:
    """Returns the objective kappa clean + (1 - kappa) worst, with its schedules."""
    check_number("kappa", kappa, SHARE)
    check_number("attack_warmup_steps", warmup_steps, FINITE)
    eps, norm = attack["eps"], attack.get("norm", "linf")
    check_radius("eps", eps)
    check_norm(norm, NORMS)

    def loss(
        params: base.Params,
        state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> base.PhaseResult:
        x, y = batch["image"], batch["label"]
        out, moved = base.forward(model, params, state, x, key)
        share = jnp.minimum(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        share = jnp.asarray(share, x.dtype)
        logits_fn = models.logits_fn(model, {"params": params["model"], **moved})
        found = worst(logits_fn, x, y, share * eps, norm, share)
        clean = losses.cross_entropy(out.logits, y).mean()
        bounded = losses.cross_entropy(found, y).mean()
        weight = 1 - share * (1 - kappa)
        value = weight * clean + (1 - weight) * bounded
        metrics = {
            "accuracy": base.accuracy(out.logits, y),
            "proved_accuracy": base.accuracy(found, y),
        }
        return value, (moved, metrics)

    return base.Defense((base.Phase(loss),))
