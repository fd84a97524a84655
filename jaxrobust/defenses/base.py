"""What a defence is to the training program: phases of a loss over a batch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from jaxrobust import attacks, models
from jaxrobust._checks import FINITE, check_choice, check_number
from jaxrobust.array_types import (
    Distributions,
    Images,
    Key,
    Labels,
    Logits,
    LogitsFn,
    LossFn,
    PyTree,
    Scalar,
    Variables,
)
from jaxrobust.attacks import registry
from jaxrobust.losses import cross_entropy
from jaxrobust.models import Outputs

# Hyperparameters that a config may have for one attack and another one lacks.
_COMMON = {"steps", "step_size", "decay"}
# What the accuracy on these images of a batch is called.
ACCURACIES = {"image": "accuracy", "attacked": "robust_accuracy"}
PAIR = tuple(ACCURACIES)
# The optimiser label of what stays as it is.
FROZEN = "frozen"

Params = Mapping[str, Any]
ModelState = Mapping[str, Any]
Metrics = Mapping[str, Any]
Batch = Mapping[str, Array]
# The last part is `(model_state, metrics)` or `(model_state, metrics, carry)`.
PhaseResult = tuple[Scalar, tuple[Any, ...]]
PhaseLoss = Callable[[Params, ModelState, Batch, Key, Array], PhaseResult]
Prepare = Callable[[Params, ModelState, Batch, Key, Array], Mapping[str, Array]]
# What a loss of outputs gives: its value and metrics.
LossAndMetrics = tuple[Scalar, Metrics]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One update on a batch.

    Attributes:
      loss: `(params, model_state, batch, key, step) -> (loss, (model_state, metrics))`.
        `params` is `{'model': ..., 'extra': ...}`; `batch` holds `image` [B, H, W, C],
        `label` [B] and `key` [B], a key per example for attacks and noise; `key` is for
        dropout. A third part after `metrics`, a dictionary of arrays, is added to the
        batch of the phases that follow (a restored image, say).
      prepare: `(params, model_state, batch, key, step) -> arrays` that are added to the
        batch of this phase and those that follow: attacked images. No gradient flows
        through them, and they are made once, however often the loss is evaluated.
      when: `(step, metrics) -> bool`, from this step's metrics so far, this phase's
        own included; where false the update is dropped. Always by default.
      mask: `(params, step, metrics) -> tree of bool`: the leaves that this phase trains
        (others keep value and optimiser state). All by default.
    """

    loss: PhaseLoss
    prepare: Prepare | None = None
    when: Callable[[Array, Metrics], Bool[Array, ""]] | None = None
    mask: Callable[[Params, Array, Metrics], PyTree] | None = None


@dataclasses.dataclass(frozen=True)
class Defense:
    """A training objective.

    Attributes:
      phases: updates made in order on every batch.
      init: `(key, variables, example) -> extra params`, trainables beside the network;
        `example` is a batch of one image, for shapes.
      labels: `params -> tree of optimiser labels`; everything is `model` by default.
        What is `FROZEN` has no optimiser, and stays.
      mixes: whether the losses take `targets(batch)`, so that images may be mixed.
    """

    phases: tuple[Phase, ...]
    init: Callable[[Key, Variables, Images], PyTree] = lambda key, variables, x: {}
    labels: Callable[[Params], PyTree] | None = None
    mixes: bool = False


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
) -> tuple[Outputs, ModelState]:
    """Runs the network in train mode; returns its outputs and the moved state."""
    variables = {"params": params["model"], **model_state}
    out, moved = model.apply(
        variables, x, train=True, mutable=list(model_state), rngs={"dropout": key}
    )
    return models.as_outputs(out), {**model_state, **moved}


def outputs_like(model: nn.Module, variables: Variables, example: Images) -> Outputs:
    """Returns the shapes of a network's outputs; computes nothing."""

    def apply(variables: Variables, x: Images) -> Outputs:
        return models.as_outputs(model.apply(variables, x, train=False))

    return jax.eval_shape(apply, variables, example)


def on_outputs(
    model: nn.Module,
    loss: Callable[..., LossAndMetrics],
    seen: Sequence[str],
    prepare: Prepare | None = None,
    *,
    mixes: bool = False,
) -> Defense:
    """Returns the objective that is a loss of the network's outputs.

    Args:
      model: a Linen module.
      loss: `(*outputs, y, step) -> (loss, metrics)`.
      seen: of what there are outputs: `image`, `attacked`, or both in that order.
      prepare: makes `batch['attacked']`, see `attacker`.
      mixes: as of `Defense`; y is `targets(batch)`.
    """

    def phase_loss(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> PhaseResult:
        outputs, metrics = [], {}
        # Pass after pass, not all at once: BatchNorm's statistics are those of each.
        for name in seen:
            out, state = forward(model, params, state, batch[name], key)
            metrics[ACCURACIES[name]] = accuracy(out.logits, batch["label"])
            outputs.append(out)
        chex.assert_equal_shape([out.logits for out in outputs])
        value, found = loss(*outputs, targets(batch), step)
        return value, (state, {**metrics, **found})

    return Defense((Phase(phase_loss, prepare),), mixes=mixes)


def seen_fn(
    model: nn.Module, params: Params, model_state: ModelState, key: Key, attack_bn: str
) -> LogitsFn:
    """Returns the network as a training attack sees it; no statistics move.

    BatchNorm takes the statistics of the attacked batch (`attack_bn` `train`) or the
    running ones (`eval`); dropout in train mode uses a stream of its own of the phase's
    key.
    """
    variables = {"params": params["model"], **model_state}
    train = attack_bn == "train"
    dropout = jax.random.fold_in(key, 1) if train else None
    return models.logits_fn(model, variables, train, dropout)


def attacked_fn(
    model: nn.Module, params: Params, model_state: ModelState, key: Key, attack_bn: str
) -> LogitsFn:
    """Returns `seen_fn` of fixed parameters: no gradient flows from an attack there."""
    fixed = jax.lax.stop_gradient((params, model_state))
    return seen_fn(model, *fixed, key, attack_bn)


def attacker(
    model: nn.Module,
    name: str,
    attack: Mapping[str, Any],
    attack_bn: str = "train",
    warmup_steps: int = 0,
    *,
    labels: str = "true",
    eps_range: Sequence[float] = (),
    loss: Callable[[LogitsFn, Images], LossFn] | None = None,
    seen: Callable[[LogitsFn, Batch], LogitsFn] | None = None,
) -> Prepare:
    """Returns a `prepare` that makes `batch['attacked']` [B, H, W, C].

    Args:
      model: a Linen module.
      name: of the attack, as in `attacks.get`.
      attack: its hyperparameters; those of `steps`, `step_size` and `decay` that it
        does not have are left out, and a single step is of length eps.
      attack_bn: BatchNorm mode of the attacked network, see `attacked_fn`.
      warmup_steps: see `at_step`.
      labels: `true`, or `predicted`, the network's own on the clean images.
      eps_range: draw one radius for each batch, uniformly in (low, high); () is that of
        `attack`.
      loss: `(logits_fn, x) -> loss(logits, y)` that the attack maximises, made from the
        attacked network and the clean images; cross-entropy by default.
      seen: `(logits_fn, batch) -> logits_fn` that is attacked in the network's place.

    Raises:
      ValueError: for an unknown attack or mode, or a radius out of range.
      TypeError: for a hyperparameter that the attack does not have.
    """
    check_choice("attack_bn", attack_bn, ("train", "eval"))
    check_choice("labels", labels, ("true", "predicted"))
    check_number("attack_warmup_steps", warmup_steps, FINITE)
    if eps_range and not (len(eps_range) == 2 and 0 <= eps_range[0] <= eps_range[1]):
        raise ValueError(
            "`eps_range` must be (low, high) or (), with 0 <= low <= high, got "
            f"{eps_range}."
        )
    taken = set(attacks.hyperparameters(name))
    if (traits := registry.traits(name)) and traits.single_step:
        taken.discard("step_size")
    options = {k: v for k, v in attack.items() if k in taken or k not in _COMMON}
    attacks.get(name, **options)  # finds mistakes now

    def prepare(
        params: Params, model_state: ModelState, batch: Batch, key: Key, step: Array
    ) -> Mapping[str, Array]:
        x, y = batch["image"], batch["label"]
        attacked = attacked_fn(model, params, model_state, key, attack_bn)
        chosen = dict(at_step(options, step, warmup_steps))
        if eps_range:
            low, high = eps_range
            # Stream 1 of this key is dropout's, see `attacked_fn`.
            share = jax.random.uniform(jax.random.fold_in(key, 2), (), x.dtype)
            chosen["eps"] = low + (high - low) * share
        if loss is not None:
            chosen["loss"] = loss(attacked, x)
        elif "target" in batch and chosen.get("loss", "ce") == "ce":
            chosen["loss"] = lambda logits, _: cross_entropy(logits, batch["target"])
        if labels == "predicted":
            # An attack that is given the label may give it away to the network.
            y = jnp.argmax(attacked(x), -1)
        if seen is not None:
            attacked = seen(attacked, batch)
        return {"attacked": attacks.get(name, **chosen)(attacked, x, y, batch["key"])}

    return prepare


def targets(batch: Batch) -> Labels | Distributions:
    """The labels of a batch [B], or of mixed images the shares of classes [B, K]."""
    return batch.get("target", batch["label"])


def smoothed(
    y: Labels | Distributions, logits: Logits, smoothing: float
) -> Labels | Distributions:
    """Labels mixed with the uniform distribution, [B, K]; as they are where it is 0."""
    if not smoothing:
        # Losses are NaN for a label that is no class; a row of zeros would hide it.
        return y
    if y.ndim == 1:
        y = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
    return optax.smooth_labels(y, smoothing)


def smoothed_cross_entropy(
    logits: Logits, y: Labels | Distributions, smoothing: float
) -> Scalar:
    """The batch's mean of the cross-entropy of `smoothed` labels."""
    return cross_entropy(logits, smoothed(y, logits, smoothing)).mean()


def accuracy(logits: Logits, y: Labels) -> Scalar:
    """Share of the batch that is classified as labelled."""
    return jnp.mean(jnp.argmax(logits, -1) == y)
