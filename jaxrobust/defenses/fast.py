"""Fast adversarial training: one step of attack for each batch."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array

from jaxrobust import attacks, losses
from jaxrobust._checks import FINITE, check_choice, check_number
from jaxrobust.array_types import Images, Key, Scalar
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params

STARTS = ("ball", "image", "noise")


def fast(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "train",
    attack_warmup_steps: int = 0,
    start: str = "ball",
    noise: float = 2.0,
    grad_align: float = 0.0,
    label_smoothing: float = 0.0,
) -> base.Defense:
    """Cross-entropy on images attacked by one step of length `step_size`.

    Trained so at large radii, a network may from one epoch to the next lose what it
    has against any attack but this one (catastrophic overfitting); the last two of
    these are ways around it.

    Args:
      model: a Linen module.
      attack: `eps`, `norm` and `step_size` (eps where it is missing) count.
      attack_bn: see `base.seen_fn`.
      attack_warmup_steps: see `base.at_step`.
      start: `ball`, a uniform sample of the ball, into which the step is taken back
        (Wong et al., ICLR 2020, arXiv 2001.03994, algorithm 3, with a step of 1.25
        eps); `image` (FGSM, a step of eps); `noise`, a uniform sample of the ball of
        `noise` eps, whose step stays where it leads, inside the box (N-FGSM, de Jorge
        et al., NeurIPS 2022, arXiv 2202.01181, algorithm 1, with a step of eps).
      noise: radius of the noise of that start, in eps.
      grad_align: weight of `losses.misalignment` of the gradients at the image, taken
        as fixed as in the release, and at a uniform sample of the ball
        (Andriushchenko and Flammarion, NeurIPS 2020, arXiv 2007.02617, equation 4).
      label_smoothing: share of the uniform distribution in the labels.

    Raises:
      ValueError: for an unknown start, or a value out of range.
    """
    check_choice("start", start, STARTS)
    check_number("noise", noise, FINITE)
    check_number("grad_align", grad_align, FINITE)
    one = {"step_size": attack["eps"], **attack, "steps": 1}
    one["random_start"] = start == "ball"
    given = (attack_bn, attack_warmup_steps)
    prepare = base.attacker(model, "pgd", one, *given)
    if start == "noise":
        # The noisy image is the centre, and the step as long as the radius there.
        centred = base.attacker(model, "pgd", {**one, "eps": one["step_size"]}, *given)
        prepare = _from_noise(centred, one, attack_warmup_steps, noise)

    def loss(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        out, moved = base.forward(model, params, state, batch["attacked"], key)
        y = base.targets(batch)
        value = base.smoothed_cross_entropy(out.logits, y, label_smoothing)
        metrics = {"robust_accuracy": base.accuracy(out.logits, batch["label"])}
        if grad_align:
            near = _in_ball(batch, base.at_step(one, step, attack_warmup_steps))
            turned = _turned(model, params, state, batch, near, key, attack_bn)
            value += grad_align * turned
            metrics["misalignment"] = turned
        return value, (moved, metrics)

    return base.Defense((base.Phase(loss, prepare),), mixes=True)


def _from_noise(
    step_from: base.Prepare, attack: Mapping[str, Any], warmup_steps: int, noise: float
) -> base.Prepare:
    """Returns a `prepare` that attacks noisy images in place of the batch's."""

    def prepare(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> Mapping[str, Array]:
        now = base.at_step(attack, step, warmup_steps)
        noisy = _sample(batch["image"], batch["key"], now, noise)
        return step_from(params, state, {**batch, "image": noisy}, key, step)

    return prepare


def _in_ball(batch: Batch, attack: Mapping[str, Any]) -> Images:
    """A sample of each image's ball, another one than the attack starts from."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(batch["key"], 1)
    return _sample(batch["image"], keys, attack)


def _sample(
    x: Images, keys: Key, attack: Mapping[str, Any], scale: float = 1.0
) -> Images:
    where = {k: attack[k] for k in ("norm", "bounds") if k in attack}
    return attacks.uniform_noise(x, key=keys, eps=scale * attack["eps"], **where)


def _turned(
    model: nn.Module,
    params: Params,
    state: ModelState,
    batch: Batch,
    near: Images,
    key: Key,
    attack_bn: str,
) -> Scalar:
    """The mean misalignment of the input gradients at the images and `near` them."""

    def gradient(params: Params, x: Images) -> Images:
        logits_fn = base.seen_fn(model, params, state, key, attack_bn)
        y = base.targets(batch)
        return jax.grad(lambda z: losses.cross_entropy(logits_fn(z), y).sum())(x)

    here = jax.lax.stop_gradient(gradient(params, batch["image"]))
    return losses.misalignment(here, gradient(params, near)).mean()
