"""The perturbation growth ratio of each stage (Kim et al. 2020, section 4.3)."""

from collections.abc import Mapping
from typing import Any

from jaxrobust import analysis, attacks, models
from jaxrobust.analysis.growth import stage_names
from jaxrobust.evaluation import step
from jaxrobust.evaluation.analyses import base
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.rules import RADIUS, whole
from jaxrobust.evaluation.setting import Setting, fetched
from jaxrobust.evaluation.text import parse_radius
from jaxrobust.results import analysis_schema as schema

FIELD = "growth"
DEFAULTS: Mapping[str, Any] = {
    "enabled": True,
    "eps": "8/255",
    "step_size": "2/255",
    "steps": 20,
    "examples": 1000,
}
RULES = {"eps": RADIUS, "step_size": RADIUS, "steps": whole(1)}
ATTACKS = True
QUICK = {"examples": 32}
ON_CPU = {"examples": 200}
NORMS = {"l1": 1, "l2": 2}


def check(fields: Fields) -> None:
    """Reads radius and step size of an Linf PGD without random start."""
    _read_radii(fields)


def at_radius(eps: str, step_size: str) -> Fields:
    """Returns what changes with the Linf radius of all."""
    return {"eps": eps, "step_size": step_size}


def _read_radii(fields: Fields) -> list[float]:
    return [
        parse_radius(fields[name], f"growth.{name}") for name in ("eps", "step_size")
    ]


def run(context: Context, runs: Runs) -> Found:
    """Measures the stages of a network that returns their features."""
    del runs
    part = context.setting.part(context.fields["examples"])
    found = measure(part, context.fields)
    return Found({"growth": found} if found else {})


def measure(setting: Setting, fields: Fields) -> schema.GrowthSummary | None:
    """Returns what results.json says about growth; None without stage features."""
    out = base.outputs_of(setting)
    stages = stage_names(out.features) if out else ()
    if not stages:
        return None
    eps, step_size = _read_radii(fields)
    attack = attacks.get("bim", eps=eps, step_size=step_size, steps=fields["steps"])

    def compared(variables, x, labels, keys) -> dict[str, Any]:
        x_adv = attack(models.logits_fn(setting.model, variables), x, labels, keys)
        clean, attacked = (base.apply(setting.model, variables, z) for z in (x, x_adv))
        found = {
            name: analysis.growth_ratios(clean.features, attacked.features, p=p)
            for name, p in NORMS.items()
        }
        return {"logits": step.float_logits(attacked.logits), **found}

    run_step = step.jitted(compared, setting.precision)
    parts: dict[str, list[Any]] = {name: [] for name in NORMS}
    for rows, out in setting.iterate(run_step, "growth"):
        for name in NORMS:
            parts[name].append(fetched(out[name], rows))
    means = {name: analysis.mean_growth(found) for name, found in parts.items()}
    return schema.GrowthSummary(
        eps=eps,
        eps_text=str(fields["eps"]),
        norm="linf",
        steps=fields["steps"],
        step_size=step_size,
        stages=list(stages),
        **{k: [mean[stage].mean for stage in stages] for k, mean in means.items()},
        images=[means["l2"][stage].images for stage in stages],
        n=len(setting.indices),
    )
