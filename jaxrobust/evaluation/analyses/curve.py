"""Robust accuracy over a range of radii, all of them in one compiled step."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxrobust import attacks, models, threat
from jaxrobust.array_types import Norm, Scalar
from jaxrobust.evaluation import flags, flags_of_attacks, statistics, step
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.protocols import STEP_SHARE
from jaxrobust.evaluation.rules import RADIUS, each, whole
from jaxrobust.evaluation.setting import Setting
from jaxrobust.evaluation.text import parse_radius
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results import npz

FIELD = "curve"
DEFAULTS: Mapping[str, Any] = {
    "enabled": True,
    "eps": ["0", "2/255", "4/255", "8/255", "16/255", "32/255", "1"],
    "steps": 20,
    "examples": 500,
}
UNSAID: Mapping[str, Any] = {"enabled": True}
RULES = {"eps": each(RADIUS), "steps": whole(1)}
ATTACKS = True
QUICK = {"examples": 32}
ON_CPU = {"examples": 200}


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
    norms = [norm for norm in norms if norm in threat.NORMS]  # PGD has no other
    norm = norms[0] if norms else "linf"
    begin = time.monotonic()
    part, steps = setting.part(fields["examples"]), fields["steps"]
    classes = predicted(part, pgd_at(norm, steps), eps, "curve")
    correct = classes == part.labels[:, None]
    written = [str(text) for text in fields["eps"]]
    seconds = time.monotonic() - begin
    found = describe(correct, eps, written, norm, steps, seconds)
    size = int(np.prod(setting.dataset.images.shape[1:]))
    chance = flags.predictions(runs[npz.CLEAN].logits, setting.labels).chance
    raised = flags_of_attacks.of_what_ran(
        flags_of_attacks.from_curve(found, chance, size),
        flags_of_attacks.OF_CURVE,
        context.attacks,
    )
    arrays = npz.CurveArrays(curve_eps=np.asarray(eps), curve_correct=correct)
    return Found({"curve": found}, arrays.named(), raised)


def predicted(
    setting: Setting,
    make_attack: Callable[[Scalar], step.Attack],
    eps: Sequence[float],
    label: str,
) -> Int[np.ndarray, "N E"]:
    """Returns the class of each example under an attack of each radius, all at once."""

    def run(variables, x, labels, keys) -> dict[str, Array]:
        logits_fn = models.logits_fn(setting.model, variables)

        def attacked(radius: Array) -> Array:
            return logits_fn(make_attack(radius)(logits_fn, x, labels, keys))

        radii = jnp.asarray(eps, jnp.float32)
        logits = jax.vmap(attacked, out_axes=1)(radii)
        return {"logits": step.float_logits(logits)}

    run_step = step.jitted(run, setting.precision)
    passes = setting.iterate(run_step, label, copies=len(eps))
    return np.concatenate([out["logits"].argmax(-1) for _, out in passes])


def pgd_at(norm: Norm, steps: int) -> Callable[[Scalar], step.Attack]:
    """Returns radius -> PGD whose step size grows with the radius."""

    def make_attack(eps: Scalar) -> step.Attack:
        step_size = STEP_SHARE * eps / max(steps, 1)
        return attacks.get("pgd", eps=eps, step_size=step_size, steps=steps, norm=norm)

    return make_attack


def describe(
    correct: Bool[np.ndarray, "N E"],
    eps: Sequence[float],
    written: Sequence[str],
    norm: Norm,
    steps: int,
    seconds: float | None = None,
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
        seconds=seconds,
    )
