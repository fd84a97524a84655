"""What a defence is to the training program: phases of a loss over a batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrobust import models
from jaxrobust.array_types import Images, Key, LogitsFn, PyTree, Scalar, Variables

Params = Mapping[str, Any]
ModelState = Mapping[str, Any]
Metrics = Mapping[str, Any]
Batch = Mapping[str, Array]
# The last part is `(model_state, metrics)` or `(model_state, metrics, carry)`.
PhaseLoss = Callable[
    [Params, ModelState, Batch, Key, Array], tuple[Scalar, tuple[Any, ...]]
]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One update on a batch.

    Attributes:
      loss: `(params, model_state, batch, key, step) -> (loss, (model_state, metrics))`.
        `params` is `{'model': ..., 'extra': ...}`; `batch` holds `image` [B, H, W, C],
        `label` [B] and `key` [B], a key per example for attacks and noise; `key` is for
        dropout. A third part after `metrics`, a dictionary of arrays, is added to the
        batch of the phases that follow (a restored image, say).
      when: `(step, metrics) -> bool`, from this step's metrics so far, this phase's
        own included; where false the update is dropped. Always by default.
      mask: `(params, step, metrics) -> tree of bool`: the leaves that this phase trains
        (others keep value and optimiser state). All by default.
    """

    loss: PhaseLoss
    when: Callable[[Array, Metrics], Bool[Array, ""]] | None = None
    mask: Callable[[Params, Array, Metrics], PyTree] | None = None


@dataclasses.dataclass(frozen=True)
class Defense:
    """A training objective.

    Attributes:
      phases: updates made in order on every batch.
      init: `(key, variables) -> extra params`, trainables beside the network.
      labels: `params -> tree of optimiser labels`; everything is `model` by default.
    """

    phases: tuple[Phase, ...]
    init: Callable[[Key, Variables], PyTree] = lambda key, variables: {}
    labels: Callable[[Params], PyTree] | None = None


def check_attack_bn(attack_bn: str) -> None:
    """Raises ValueError unless the BatchNorm mode is known."""
    if attack_bn not in ("train", "eval"):
        raise ValueError(f"`attack_bn` must be 'train' or 'eval', got {attack_bn!r}.")


def at_step(
    attack: Mapping[str, Any], step: Array, warmup_steps: int
) -> Mapping[str, Any]:
    """Returns the training attack as it is at a step.

    Its radius and step size grow linearly over the first `warmup_steps` steps: at large
    radii a network may never leave its start when it meets the full attack at once.
    """
    if not warmup_steps:
        return attack
    share = jnp.minimum(1.0, (step + 1) / warmup_steps)
    return {k: v * share if k in ("eps", "step_size") else v for k, v in attack.items()}


def forward(
    model: nn.Module, params: Params, model_state: ModelState, x: Images, key: Key
) -> tuple[models.Outputs, ModelState]:
    """Runs the network in train mode; returns its outputs and the moved state."""
    variables = {"params": params["model"], **model_state}
    out, moved = model.apply(
        variables, x, train=True, mutable=list(model_state), rngs={"dropout": key}
    )
    if not isinstance(out, models.Outputs):
        out = models.Outputs(out, {}, None)
    return out, {**model_state, **moved}


def attacked_fn(
    model: nn.Module,
    params: Params,
    model_state: ModelState,
    key: Key,
    *,
    attack_bn: str,
) -> LogitsFn:
    """Returns the network as a training attack sees it; no statistics move.

    Args:
      model: a Linen module.
      params: `{'model': ...}`; no gradient flows from the attack into them.
      model_state: running statistics and the like.
      key: the phase's; dropout in train mode uses a stream of its own.
      attack_bn: `train` (statistics of the attacked batch) or `eval` (running ones).
    """
    variables = {"params": params["model"], **model_state}
    train = attack_bn == "train"
    dropout = jax.random.fold_in(key, 1) if train else None
    return models.logits_fn(
        model, jax.lax.stop_gradient(variables), train=train, key=dropout
    )
