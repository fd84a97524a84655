"""Robust accuracy over a range of radii, all of them in one compiled step."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxrobust import attacks, models
from jaxrobust.array_types import Norm, Scalar
from jaxrobust.evaluation import flags, flags_of_attacks, statistics, step
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.radius import STEP_SHARE, parse_radius
from jaxrobust.evaluation.setting import Setting
from jaxrobust.results import schema

FIELD = "curve"
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "eps": ["0", "2/255", "4/255", "8/255", "16/255", "32/255", "1"],
        "steps": 20,
        "examples": 500,
    }
)


def check(fields: Fields) -> None:
    """Reads the radii; none leaves the curve out."""
    _read_eps(fields)


def _read_eps(fields: Fields) -> list[float]:
    return [parse_radius(text, "curve.eps") for text in fields.get("eps", ())]


def run(context: Context, runs: Runs) -> Found:
    """Draws the curve in the norm of the first attack with a radius."""
    fields, setting, eps = context.fields, context.setting, _read_eps(context.fields)
    if not eps:
        return Found()
    norms: list[Norm] = [e.norm for e in context.entries if e.eps is not None]
    norm = norms[0] if norms else "linf"
    begin = time.monotonic()
    correct = resisting(setting.part(fields["examples"]), eps, norm, fields["steps"])
    written = [str(text) for text in fields["eps"]]
    found = describe(correct, eps, written, norm, fields["steps"])
    found = dataclasses.replace(found, seconds=time.monotonic() - begin)
    size = int(np.prod(setting.dataset.images.shape[1:]))
    chance = flags.predictions(runs["clean"].logits, setting.labels)["chance"]
    raised = flags_of_attacks.of_what_ran(
        flags_of_attacks.from_curve(found, chance, size),
        flags_of_attacks.OF_CURVE,
        context.attacks,
    )
    arrays = {"curve_eps": np.asarray(eps), "curve_correct": correct}
    return Found({"curve": found}, arrays, raised)


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


def resisting(
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
) -> schema.Curve:
    """Returns what results.json says about the curve."""
    shares = [statistics.share(column, "accuracy") for column in correct.T]
    return schema.Curve(
        name="pgd",
        norm=norm,
        steps=steps,
        step_size=f"{STEP_SHARE:g} eps / steps",
        random_start=True,
        eps=list(eps),
        eps_text=list(written),
        robust_accuracy=[s["accuracy"] for s in shares],
        ci95=[s["ci95"] for s in shares],
        n=len(correct),
    )
