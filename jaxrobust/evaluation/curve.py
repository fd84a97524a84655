"""Robust accuracy over a range of radii, all of them in one compiled step."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxrobust import attacks, models
from jaxrobust.array_types import Norm, Scalar
from jaxrobust.evaluation import statistics, step
from jaxrobust.evaluation.setting import Setting

STEP_SHARE = 2.5  # steps x step size over the radius, as Madry et al. 2018 use


def make_curve_step(
    model: nn.Module,
    make_attack: Callable[[Scalar], step.Attack],
    eps: Sequence[float],
    *,
    precision: str = "highest",
) -> step.EvalStep:
    """Builds a jitted step that attacks a batch at every radius at once.

    Args:
      model: a Linen module.
      make_attack: radius (traced) to attack; vmapped.
      eps: E radii.
      precision: of matrix products.

    Returns:
      A step as `make_eval_step` makes, with `{'logits': float32 [B, E, K]}`.
    """

    @jax.jit
    def run(variables, images, labels, keys) -> dict[str, Array]:
        with jax.default_matmul_precision(precision):
            logits_fn = models.logits_fn(model, variables)
            x = step.to_float(images)

            def attacked(radius: Array) -> Array:
                return logits_fn(make_attack(radius)(logits_fn, x, labels, keys))

            radii = jnp.asarray(eps, jnp.float32)
            logits = jax.vmap(attacked, out_axes=1)(radii)
        return {"logits": step.float_logits(logits)}

    return run


def pgd_at(norm: Norm, steps: int) -> Callable[[Scalar], step.Attack]:
    """Returns radius -> PGD whose step size grows with the radius."""

    def make_attack(eps: Scalar) -> step.Attack:
        step_size = STEP_SHARE * eps / max(steps, 1)
        return attacks.get("pgd", eps=eps, step_size=step_size, steps=steps, norm=norm)

    return make_attack


def run(
    setting: Setting, eps: Sequence[float], norm: Norm, steps: int
) -> Bool[np.ndarray, "N E"]:
    """Returns which examples of the setting resist PGD at each radius."""
    run_step = make_curve_step(
        setting.model, pgd_at(norm, steps), eps, precision=setting.precision
    )
    labels = setting.labels[:, None]
    return np.concatenate(
        [
            out["logits"].argmax(-1) == labels[rows]
            for rows, out in setting.iterate(run_step, "curve", copies=len(eps))
        ]
    )


def describe(
    correct: Bool[np.ndarray, "N E"],
    eps: Sequence[float],
    written: Sequence[str],
    norm: Norm,
    steps: int,
) -> dict[str, Any]:
    """Returns what results.json says about the curve."""
    shares = [statistics.share(column, "accuracy") for column in correct.T]
    return {
        "name": "pgd",
        "norm": norm,
        "steps": steps,
        "step_size": f"{STEP_SHARE:g} eps / steps",
        "random_start": True,
        "eps": list(eps),
        "eps_text": list(written),
        "robust_accuracy": [s["accuracy"] for s in shares],
        "ci95": [s["ci95"] for s in shares],
        "n": len(correct),
    }
