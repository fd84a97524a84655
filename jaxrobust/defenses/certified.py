"""Certified training: the loss of what is proved, not of what an attack finds.

IBP of Gowal et al. 2018 (arXiv 1810.12715), CROWN-IBP of Zhang et al. 2020 (arXiv
1906.06316), SABR of Mueller et al. 2023 (arXiv 2210.04871).
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
    Range,
    check_norm,
    check_number,
    check_radius,
)
from jaxrobust.array_types import Images, Key, Labels, Logits, LogitsFn, Scalar
from jaxrobust.defenses import base

_BOX = Range(0, 1, above=True)
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


def sabr(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "eval",
    attack_warmup_steps: int = 0,
    kappa: float = 0.0,
    small_box: float = 0.1,
) -> base.Defense:
    """As `ibp`, of a small box inside the ball: around what PGD finds (section 3).

    The box has the radius `small_box` eps (lambda of the paper), and PGD, with steps
    and step size of `attack`, the rest of it. Less is proved of the loss, and the
    network has less to give up: clean accuracy and what CROWN proves grow.
    """
    check_number("small_box", small_box, _BOX)

    def worst(logits_fn, x, y, eps, norm, share) -> Logits:
        del share
        radius = eps * small_box
        return certify.worst_logits(
            logits_fn, x, y, eps=radius, norm=norm, method="ibp"
        )

    inner = {**attack, "eps": attack["eps"] * (1 - small_box)}
    prepare = base.attacker(model, "pgd", inner, attack_bn, attack_warmup_steps)
    return _trained(model, attack, attack_warmup_steps, kappa, worst, prepare)


def _trained(
    model: nn.Module,
    attack: Mapping[str, Any],
    warmup_steps: int,
    kappa: float,
    worst: Worst,
    prepare: base.Prepare | None = None,
) -> base.Defense:
    """Returns the objective kappa clean + (1 - kappa) worst, with its schedules.

    The worst is around the images, or around the points that `prepare` makes of them.
    """
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
        centre = x if prepare is None else batch["attacked"]
        found = worst(logits_fn, centre, y, share * eps, norm, share)
        clean = losses.cross_entropy(out.logits, y).mean()
        bounded = losses.cross_entropy(found, y).mean()
        weight = 1 - share * (1 - kappa)
        value = weight * clean + (1 - weight) * bounded
        metrics = {
            "accuracy": base.accuracy(out.logits, y),
            "proved_accuracy": base.accuracy(found, y),
        }
        return value, (moved, metrics)

    return base.Defense((base.Phase(loss, prepare),))
