"""HAT: helper-based adversarial training (Rade and Moosavi-Dezfooli, ICLR 2022)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import losses
from jaxrobust._checks import FINITE, check_number
from jaxrobust.array_types import Key, Logits, Variables
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params
from jaxrobust.defenses.second import SecondNetwork
from jaxrobust.defenses.trades import divergence_attacker

_SEEN = {
    "image": "accuracy",
    "attacked": "robust_accuracy",
    "helped": "helper_accuracy",
}


def hat(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    helper: tuple[nn.Module, Variables] | None = None,
    attack_bn: str = "eval",
    attack_warmup_steps: int = 0,
    beta: float = 2.5,
    gamma: float = 0.5,
    helper_scale: float = 2.0,
) -> base.Defense:
    """TRADES, and images farther out that may be of another class.

    See `losses.hat`. A helper image is x + `helper_scale` (x_adv - x), outside of ball
    and box; its label is what the helper, a network trained without attacks, says of
    x_adv. Without such labels the margin grows beyond what the ball asks for.

    Args:
      model: a Linen module.
      attack: hyperparameters of PGD, as of `trades`.
      helper: the trained network and its variables, which stay as they are. None: one
        of `model`'s kind is trained beside it, by cross-entropy on the clean images and
        the same optimiser, which saves the first of two runs but is not in the paper.
      attack_bn: see `base.attacker`.
      attack_warmup_steps: see `base.at_step`.
      beta: weight of the divergence, at least 0.
      gamma: weight of the helper images, at least 0.
      helper_scale: h of the paper, at least 0.

    Raises:
      ValueError: for a weight, scale or radius out of range; from `init` for a helper
        of other classes or images.
    """
    weights = {"beta": beta, "gamma": gamma, "helper_scale": helper_scale}
    for name, value in weights.items():
        check_number(name, value, FINITE)
    network, given = (model, None) if helper is None else helper
    second = SecondNetwork(network, "helper", model, given)
    attacked = divergence_attacker(model, attack, attack_bn, attack_warmup_steps)

    def prepare(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> Mapping[str, Array]:
        made = attacked(params, state, batch, key, step)
        x, x_adv = batch["image"], made["attacked"]
        helped = x + helper_scale * (x_adv - x)
        said = jnp.argmax(second.logits(params, x_adv, key), -1)
        return {**made, "helped": helped, "said": said}

    def loss(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        del step
        z: dict[str, Logits] = {}
        for name in _SEEN:
            out, state = base.forward(model, params, state, batch[name], key)
            z[name] = out.logits
        y, said = base.targets(batch), batch["said"]
        terms = z["image"], z["attacked"], z["helped"]
        value = losses.hat(*terms, y, said, beta, gamma).mean()
        if helper is None:
            own = second.logits(params, batch["image"], key)
            value += losses.cross_entropy(own, y).mean()
        metrics = {
            metric: base.accuracy(z[name], said if name == "helped" else batch["label"])
            for name, metric in _SEEN.items()
        }
        return value, (state, metrics)

    phases = (base.Phase(loss, prepare),)
    return base.Defense(phases, second.init, second.labels, mixes=True)
