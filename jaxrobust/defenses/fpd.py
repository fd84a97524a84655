"""Two-phase training of the feature pyramid decoder.

Li et al., "Enhancing Intrinsic Adversarial Robustness via Feature Pyramid Decoder",
CVPR 2020, arXiv 2005.02552, section 3.4, and the adversarial training of its release.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrobust import losses
from jaxrobust._checks import FINITE, check_choice, check_number
from jaxrobust.array_types import Images, Key, PyTree, Scalar, Variables
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params
from jaxrobust.models.fpd import FPD, spectral_norm

PHASE1 = ("restoration", "all_but_classifier")


def fpd(
    model: nn.Module,
    *,
    attack: Mapping[str, Any] | None = None,
    noise: float = 0.01,
    threshold: float = 3.0,
    phase1: str = "restoration",
    second_weight: float = 1.0,
    spectral_penalty: float = 0.0,
    attack_name: str = "",
    delay_steps: int = 0,
    attack_bn: str = "eval",
    attack_warmup_steps: int = 0,
) -> base.Defense:
    """Restores noisy images, classifies, and does both again on what was restored.

    With L2 the mean squared error of the restored image x', on images in [0, 1]:

    1. x + U(-noise, noise) goes in, x is the target. While L2 > `threshold` only the
       modules of `phase1` are updated, on L2 alone; from then on all, on L2 + CE.
    2. Where L2 < `threshold`, a second update on the same batch: x' goes in, all is
       updated on `second_weight` L2 + CE. No gradient flows through x' (in the release
       that backward pass fails on any recent torch).

    With an attack, from step `delay_steps` on, the first update is on the mean of the
    loss above and that of attacked images, and the second one on the restoration of the
    latter. The attack's labels are the network's own predictions.

    `model` returns restored images, as `models.fpd` does. `phase1` is `restoration`,
    the decoder (and front denoising, which has no weights here), or
    `all_but_classifier`, what the release means to update. `spectral_penalty` is the
    weight of the spectral norm of the classifier's kernel.

    Raises:
      ValueError: for a number or name out of range, or a network that restores nothing.
    """
    numbers = noise, threshold, second_weight, spectral_penalty, delay_steps
    phases = _Losses(model, phase1, bool(attack_name), *numbers)
    prepare = None
    if attack_name:
        prepare = base.attacker(
            model,
            attack_name,
            attack or {},
            attack_bn,
            attack_warmup_steps,
            labels="predicted",
        )
        prepare = _delayed(prepare, delay_steps)
    first = base.Phase(phases.first, prepare, mask=phases.mask)
    second = base.Phase(
        phases.second, when=lambda step, metrics: metrics["l2"] < threshold
    )
    return base.Defense((first, second), phases.init)


class _Pass(NamedTuple):
    """What one run of the network gives."""

    restored: Images
    l2: Scalar
    cross_entropy: Scalar
    accuracy: Scalar


@dataclasses.dataclass(frozen=True)
class _Losses:
    """The losses of both phases and what they train; fields as arguments of `fpd`."""

    model: nn.Module
    phase1: str
    attacked: bool
    noise: float
    threshold: float
    second_weight: float
    spectral_penalty: float
    delay_steps: int

    def __post_init__(self) -> None:
        if isinstance(self.model, FPD) and not self.model.restoration:
            raise ValueError(_NOTHING_RESTORED)
        check_choice("phase1", self.phase1, PHASE1)
        for field in dataclasses.fields(self)[3:]:
            check_number(field.name, getattr(self, field.name), FINITE)
        if self.spectral_penalty and not isinstance(self.model, FPD):
            raise ValueError(
                "`spectral_penalty` needs the classifier of models.fpd, got a "
                f"{type(self.model).__name__}; set it to 0."
            )

    def init(self, key: Key, variables: Variables, example: Images) -> PyTree:
        """Checks the network's outputs; there are no trainables beside it."""
        del key
        if base.outputs_like(self.model, variables, example).restored is None:
            raise ValueError(_NOTHING_RESTORED)
        if self.phase1 == "restoration" and "decoder" not in variables["params"]:
            raise ValueError(
                "`phase1` 'restoration' trains the submodule `decoder`, which "
                f"{type(self.model).__name__} does not have; use 'all_but_classifier'."
            )
        return {}

    def first(
        self, params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        """The loss of the first update; hands on what was restored."""
        x = _noisy(batch["image"], batch["key"], self.noise)
        clean, state = self._run(params, state, x, batch, key)
        restoring = clean.l2 > self.threshold
        metrics = {
            "l2": clean.l2,
            "cross_entropy": clean.cross_entropy,
            "accuracy": clean.accuracy,
            "restoring": jnp.asarray(restoring, jnp.float32),
        }
        total, restored = clean.l2 + clean.cross_entropy, clean.restored
        if self.attacked:
            x, key = batch["attacked"], jax.random.fold_in(key, 1)
            adv, moved = self._run(params, state, x, batch, key)
            # One program for all steps: what does not count is selected away.
            active = (step >= self.delay_steps) & ~restoring
            half = (total + adv.l2 + adv.cross_entropy) / 2
            total = jnp.where(active, half, total)
            restored = jnp.where(active, adv.restored, restored)
            state = jax.tree.map(functools.partial(jnp.where, active), moved, state)
            metrics["robust_accuracy"] = adv.accuracy
        if self.spectral_penalty:
            metrics["spectral_norm"] = _classifier_norm(params)
            total += self.spectral_penalty * metrics["spectral_norm"]
        # Until images are restored well, classifying what comes out teaches nothing.
        total = jnp.where(restoring, clean.l2, total)
        return total, (state, metrics, {"restored": restored})

    def second(
        self, params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        """The loss of the second update, on what the first restored."""
        del step
        # Handed over in the batch: no gradient flows back into the first pass.
        found, state = self._run(params, state, batch["restored"], batch, key)
        total = self.second_weight * found.l2 + found.cross_entropy
        if self.spectral_penalty:
            total += self.spectral_penalty * _classifier_norm(params)
        metrics = {"second_l2": found.l2, "second_cross_entropy": found.cross_entropy}
        return total, (state, metrics)

    def mask(self, params: Params, step: Array, metrics: base.Metrics) -> PyTree:
        """What the first update trains: all, or only the modules of `phase1`."""
        del step
        restoring = metrics["l2"] > self.threshold

        def trained(path: tuple[Any, ...], _: Array) -> Bool[Array, ""]:
            parts = [entry.key for entry in path[:2]]
            if self.phase1 == "restoration":
                always = parts == ["model", "decoder"]
            else:
                always = parts != ["model", "classifier"]
            return jnp.logical_or(always, ~restoring)

        return jax.tree_util.tree_map_with_path(trained, params)

    def _run(
        self, params: Params, state: ModelState, x: Images, batch: Batch, key: Key
    ) -> tuple[_Pass, ModelState]:
        """Runs the network on `x`; targets are the batch's images and labels."""
        out, state = base.forward(self.model, params, state, x, key)
        if out.restored is None:
            raise ValueError(_NOTHING_RESTORED)
        l2 = jnp.mean(jnp.square(out.restored - batch["image"]))
        cross_entropy = losses.cross_entropy(out.logits, batch["label"]).mean()
        accuracy = base.accuracy(out.logits, batch["label"])
        return _Pass(out.restored, l2, cross_entropy, accuracy), state


_NOTHING_RESTORED = (
    "objective 'fpd' needs a network that returns restored images "
    "(`Outputs.restored`); use models.fpd with restoration=True, or objective "
    "'standard' without it."
)


def _classifier_norm(params: Params) -> Scalar:
    return spectral_norm(params["model"]["classifier"]["kernel"])


def _noisy(x: Images, keys: Key, noise: float) -> Images:
    """Adds U(-noise, noise), from a key per example; not clipped, as released."""
    if not noise:
        return x

    def draw(key: Key) -> Array:
        key = jax.random.fold_in(key, 1)  # the attack has the key itself
        return jax.random.uniform(key, x.shape[1:], x.dtype, -noise, noise)

    return x + jax.vmap(draw)(keys)


def _delayed(prepare: base.Prepare, delay_steps: int) -> base.Prepare:
    """Leaves out the attack's work, its images the clean ones, before a step."""
    if not delay_steps:
        return prepare

    def delayed(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> Mapping[str, Array]:
        # Not `where`, which would run the attack all the same.
        attacked = jax.lax.cond(
            step >= delay_steps,
            lambda: prepare(params, state, batch, key, step)["attacked"],
            lambda: batch["image"],
        )
        return {"attacked": attacked}

    return delayed
