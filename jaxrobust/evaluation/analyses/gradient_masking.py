"""Signs of masked gradients: whether a robust accuracy can be believed."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import models, parallel, threat
from jaxrobust.array_types import Norm
from jaxrobust.evaluation import flags_of_attacks, protocols, step
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.diagnose import check_counts, diagnose
from jaxrobust.evaluation.rules import whole
from jaxrobust.evaluation.text import parse_radius

FIELD = "diagnostics"
DEFAULTS: Mapping[str, Any] = {
    "enabled": True,
    "examples": 100,
    "steps": 20,
    "restarts": 1,
    "queries": 100,
}
# A config of before there were diagnostics gets the usual ones.
UNSAID = DEFAULTS
RULES = {"steps": whole(1)}
DIFFERENTIATES = True
QUICK = {"examples": 32, "steps": 2, "queries": 10}
ON_CPU = {"examples": 50}


def check(fields: Fields) -> None:
    """Checks the counts."""
    check_counts(fields, f"eval.{FIELD}.")


def run(context: Context, runs: Runs) -> Found:
    """Diagnoses a network, under the data set's usual threat if no attack has one."""
    del runs
    fields, begin = context.fields, time.monotonic()
    part = context.setting.part(fields["examples"])
    threats: list[tuple[float, Norm]]
    threats = [
        (e.eps, e.norm) for e in context.entries if e.eps and e.norm in threat.NORMS
    ]
    threats.append((parse_radius(protocols.threat_of(context.data).eps), "linf"))
    eps, norm = threats[0]
    # On one device, wherever the variables were: these are a few images.
    variables = jax.device_put(parallel.to_host(part.variables))

    def show(done: int, total: int) -> None:
        if part.progress is not None:
            part.progress.update(done, total, "diagnostics", {})

    numbers, found = diagnose(
        models.logits_fn(part.model, variables),
        step.to_float(jnp.asarray(part.images)),
        jnp.asarray(part.labels, jnp.int32),
        key=part.keys("diagnostics"),
        eps=eps,
        norm=norm,
        **{name: fields[name] for name in ("steps", "restarts", "queries")},
        batch_size=part.batch_size,
        precision=part.precision,
        on_pass=show,
    )
    numbers = dataclasses.replace(numbers, seconds=time.monotonic() - begin)
    names = flags_of_attacks.OF_CROSS_ENTROPY
    found = flags_of_attacks.of_what_ran(found, names, context.attacks)
    return Found({"diagnostics": numbers}, flags=found)
