"""Free adversarial training (Shafahi et al., NeurIPS 2019, arXiv 1904.12843)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import attacks, threat
from jaxrobust._checks import check_count
from jaxrobust.array_types import Images, Key, Logits, PyTree, Scalar
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params


def free(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    replays: int = 8,
    label_smoothing: float = 0.0,
) -> base.Defense:
    """Trains on each batch `replays` times; one gradient moves weights and images.

    Each replay takes the gradient of the cross-entropy on the attacked images, in the
    weights and in the images at once: the weights descend, the images ascend by a step
    of length eps, back into ball and box (algorithm 1). Epochs are those of the data:
    the paper divides their number by `replays`.

    In the paper a batch starts at the perturbations that the one before has come to;
    here at a uniform sample of the ball, so that a batch depends on itself alone and
    runs resume exactly.

    Args:
      model: a Linen module.
      attack: `eps`, `norm` and `bounds` count.
      replays: m of the paper, at least 1.
      label_smoothing: share of the uniform distribution in the labels.

    Raises:
      ValueError: for `replays` below 1, or a radius out of range.
    """
    check_count("replays", replays, 1)
    attacks.get("fgsm", eps=attack["eps"])  # finds mistakes now
    where = {k: attack[k] for k in ("norm", "bounds") if k in attack}
    where = {"norm": "linf", **where}
    eps = attack["eps"]

    def prepare(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> Mapping[str, Array]:
        keys = batch["key"]
        x = attacks.uniform_noise(batch["image"], key=keys, eps=eps, **where)
        return {"attacked": x}

    def loss(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        def value_of(
            params: Params, x: Images
        ) -> tuple[Scalar, tuple[ModelState, Logits]]:
            out, moved = base.forward(model, params, state, x, key)
            y = base.targets(batch)
            value = base.smoothed_cross_entropy(out.logits, y, label_smoothing)
            return value, (moved, out.logits)

        x, x_adv = batch["image"], batch["attacked"]
        both = jax.value_and_grad(value_of, argnums=(0, 1), has_aux=True)
        (value, (moved, logits)), (of_params, of_images) = both(
            jax.lax.stop_gradient(params), x_adv
        )
        stepped = threat.steepest_step(x_adv, of_images, step_size=eps, **where)
        metrics = {"robust_accuracy": base.accuracy(logits, batch["label"])}
        carry = {"attacked": threat.project(stepped, x, eps=eps, **where)}
        return _with_gradient(value, of_params, params), (moved, metrics, carry)

    first = base.Phase(loss, prepare)
    return base.Defense((first, *[base.Phase(loss)] * (replays - 1)), mixes=True)


def _with_gradient(value: Scalar, gradient: PyTree, params: PyTree) -> Scalar:
    """Returns `value`, with this gradient in `params`: it is known already."""
    pairs = zip(*map(jax.tree.leaves, (gradient, params)), strict=True)
    return value + sum(jnp.vdot(g, p - jax.lax.stop_gradient(p)) for g, p in pairs)
