"""Optimisers and learning-rate schedules, built from optax."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxrobust._checks import nearest_match
from jaxrobust.array_types import PyTree
from jaxrobust.defenses.base import FROZEN

OPTIMIZERS = ("sgd", "adam", "adamax", "adamw")
SCHEDULES = ("constant", "step", "piecewise", "cosine", "cyclic", "plateau")


def _check(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}. {nearest_match(name, known)}")


def make_schedule(
    schedule: Mapping[str, Any],
    learning_rate: float,
    *,
    steps_per_epoch: int,
    total_steps: int,
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    At each of the `milestones` of `config.schedule`, in epochs, `step` multiplies the
    rate by `factor` and `piecewise` sets it to the next of `scales` times
    `learning_rate`; `cosine` ends at 0 at `total_steps`. `cyclic` is one triangle: from
    0 to `learning_rate` over `peak`, a share of the steps, and back (Smith 2017, arXiv
    1506.01186, with one cycle). All others have a linear warm-up from 0. An unknown
    name, `scales` that are not one per milestone, and a warm-up of `cyclic`, which
    would climb twice, are a ValueError.
    """
    name = schedule["name"]
    _check(name, SCHEDULES, "schedule")
    if name == "cyclic" and schedule["warmup_epochs"]:
        raise ValueError(
            "a cyclic schedule warms up by itself, over `schedule.peak` of the run: "
            f"set `schedule.warmup_epochs` to 0, got {schedule['warmup_epochs']}."
        )
    warmup = round(schedule["warmup_epochs"] * steps_per_epoch)
    if name == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, max(1, total_steps - warmup))
    elif name == "piecewise":
        epochs, scales = schedule["milestones"], schedule["scales"]
        if len(epochs) != len(scales) or list(epochs) != sorted(epochs):
            raise ValueError(
                "a piecewise schedule needs rising `schedule.milestones` and one of "
                f"`schedule.scales` for each, got {tuple(epochs)} and {tuple(scales)}."
            )
        rates = [optax.constant_schedule(learning_rate * s) for s in (1, *scales)]
        starts = [round(epoch * steps_per_epoch) - warmup for epoch in epochs]
        main = optax.join_schedules(rates, starts)
    elif name == "step":
        drops: dict[int, float] = {}
        for epoch in schedule["milestones"]:
            step = round(epoch * steps_per_epoch) - warmup
            drops[step] = drops.get(step, 1.0) * schedule["factor"]
        main = optax.piecewise_constant_schedule(learning_rate, drops)
    elif name == "cyclic":
        steps = max(1, total_steps)
        rise = min(max(1, round(schedule["peak"] * steps)), steps)
        fall = optax.linear_schedule(learning_rate, 0.0, max(1, steps - rise))
        main = optax.join_schedules([_ramp(learning_rate, rise), fall], [rise - 1])
    else:
        main = optax.constant_schedule(learning_rate)
    if not warmup:
        return main
    return optax.join_schedules([_ramp(learning_rate, warmup), main], [warmup])


def _ramp(learning_rate: float, steps: int) -> optax.Schedule:
    """Rises to the rate, which the last of the steps has; the first one is no 0."""
    return optax.linear_schedule(learning_rate / steps, learning_rate, steps - 1)


def make_optimizer(
    optimizer: Mapping[str, Any],
    labels: Callable[[PyTree], PyTree] | None = None,
    by_label: Mapping[str, Mapping[str, Any]] | None = None,
) -> optax.GradientTransformation:
    """Returns the optimiser at learning rate 1; weight decay acts as in torch.

    The training step scales its updates by the rate at the global step. Counters inside
    optax would run apart where a defence makes two updates per batch, or skips one.

    For `sgd`, `adam` and `adamax` the decay is added to the gradient of every leaf
    (norms and biases too) before momentum; for `adamw` it is decoupled.

    Args:
      optimizer: fields of `config.optimizer`; an unknown name is a ValueError.
      labels: of a defence, `params -> label per leaf`; `model` is the main optimiser.
      by_label: for every other label the fields in which its optimiser differs. Its
        learning rate keeps its ratio to the main one under the schedule.
    """
    main = _chain(optimizer)
    if labels is None:
        return main
    chains: dict[Any, optax.GradientTransformation] = {
        "model": main,
        FROZEN: optax.set_to_zero(),
    }
    for label, fields in (by_label or {}).items():
        own = {**optimizer, **fields}
        ratio = own["learning_rate"] / optimizer["learning_rate"]
        chains[label] = optax.chain(_chain(own), optax.scale(ratio))
    return optax.multi_transform(chains, labels)


def _chain(optimizer: Mapping[str, Any]) -> optax.GradientTransformation:
    """Builds one optimiser from its fields."""
    name, decay = optimizer["name"], optimizer["weight_decay"]
    _check(name, OPTIMIZERS, "optimiser")
    parts = []
    if optimizer["clip_norm"]:
        parts.append(optax.clip_by_global_norm(optimizer["clip_norm"]))
    if decay and name != "adamw":
        parts.append(optax.add_decayed_weights(decay))
    betas = {"b1": optimizer["b1"], "b2": optimizer["b2"]}
    if name == "sgd":
        momentum = optimizer["momentum"] or None
        nesterov = bool(momentum) and optimizer["nesterov"]
        parts.append(optax.sgd(1.0, momentum=momentum, nesterov=nesterov))
    elif name == "adamw":
        parts.append(optax.adamw(1.0, weight_decay=decay, **betas))
    else:
        kind = {"adam": optax.adam, "adamax": optax.adamax}[name]
        parts.append(kind(1.0, **betas))
    return optax.chain(*parts)


def _start(kind: type, value: float) -> Any:
    return flax.struct.field(default_factory=lambda: jnp.asarray(value, kind))


class Plateau(flax.struct.PyTreeNode):
    """Progress of the plateau schedule, part of the training state; first its start."""

    scale: Float[Array, ""] = _start(jnp.float32, 1.0)  # factor on every update
    best: Float[Array, ""] = _start(jnp.float32, math.inf)  # lowest validation loss
    waited: Int[Array, ""] = _start(jnp.int32, 0)  # validations since then


def update_plateau(
    state: Plateau, loss: float, factor: float, patience: int
) -> Plateau:
    """Shrinks the scale after more than `patience` validations without a new best."""
    if jnp.float32(loss) < state.best:
        return state.replace(best=jnp.float32(loss), waited=jnp.int32(0))
    if state.waited < patience:
        return state.replace(waited=jnp.int32(state.waited + 1))
    return state.replace(scale=jnp.float32(state.scale) * factor, waited=jnp.int32(0))


class Patience(flax.struct.PyTreeNode):
    """Progress of early stopping, part of the training state; first its start."""

    best: Float[Array, ""] = _start(jnp.float32, -1.0)  # highest validation accuracy
    waited: Int[Array, ""] = _start(jnp.int32, 0)  # validations since then


def update_patience(state: Patience, accuracy: float) -> Patience:
    """Counts the validations without a new best."""
    if jnp.float32(accuracy) > state.best:
        return Patience(best=jnp.float32(accuracy))
    return state.replace(waited=jnp.int32(state.waited + 1))
