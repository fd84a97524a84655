"""The perturbation growth ratio of each stage (Kim et al. 2020, section 4.3)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxrobust import analysis, attacks, models, parallel
from jaxrobust.analysis.growth import stage_names
from jaxrobust.evaluation import step
from jaxrobust.evaluation.analyses.base import (
    Context,
    Fields,
    Found,
    Runs,
    outputs_of,
)
from jaxrobust.evaluation.radius import parse_radius
from jaxrobust.evaluation.setting import Setting
from jaxrobust.results import schema

FIELD = "growth"
DEFAULTS: Mapping[str, Any] = {
    "enabled": True,
    "eps": "8/255",
    "step_size": "2/255",
    "steps": 20,
    "examples": 1000,
}
NORMS = {"l1": 1, "l2": 2}


def make_growth_step(
    model: nn.Module, attack: step.Attack, *, precision: str = "highest"
) -> step.EvalStep:
    """Builds a step as `make_eval_step`, that compares the stages' features.

    It gives `logits` of the attacked images and, under `l1` and `l2`, `analysis.Growth`
    per stage.
    """

    def run(variables, x, labels, keys) -> dict[str, Any]:
        x_adv = attack(models.logits_fn(model, variables), x, labels, keys)
        clean = model.apply(variables, x, train=False)
        attacked = model.apply(variables, x_adv, train=False)
        assert isinstance(clean, models.Outputs)
        assert isinstance(attacked, models.Outputs)
        found = {
            name: analysis.growth_ratios(clean.features, attacked.features, p=p)
            for name, p in NORMS.items()
        }
        return {"logits": step.float_logits(attacked.logits), **found}

    return step.jitted(run, precision)


def check(fields: Fields) -> None:
    """Reads radius and step size of an Linf PGD without random start."""
    if fields.get("enabled"):
        _read_radii(fields)


def _read_radii(fields: Fields) -> list[float]:
    return [
        parse_radius(fields[name], f"growth.{name}") for name in ("eps", "step_size")
    ]


def run(context: Context, runs: Runs) -> Found:
    """Measures the stages of a network that returns their features."""
    del runs
    if not context.fields.get("enabled"):
        return Found()
    part = context.setting.part(context.fields["examples"])
    found = measure(part, context.fields)
    return Found({"growth": found} if found else {})


def measure(setting: Setting, fields: Fields) -> schema.Growth | None:
    """Returns what results.json says about growth; None without stage features."""
    out = outputs_of(setting)
    stages = stage_names(out.features) if out else ()
    if not stages:
        return None
    eps, step_size = _read_radii(fields)
    attack = attacks.get("bim", eps=eps, step_size=step_size, steps=fields["steps"])
    run_step = make_growth_step(setting.model, attack, precision=setting.precision)
    parts: dict[str, list[Any]] = {name: [] for name in NORMS}
    for rows, out in setting.iterate(run_step, "growth"):
        count = rows.stop - rows.start
        for name in NORMS:
            batch = parallel.to_host(out[name])
            parts[name].append(jax.tree.map(lambda a, n=count: a[:n], batch))
    means = {name: analysis.mean_growth(found) for name, found in parts.items()}
    return schema.Growth(
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
