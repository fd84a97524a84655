"""Where attacks end: ranks of the classes that FGSM and MIM turn images into."""

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrobust import analysis, attacks
from jaxrobust.analysis.ranks import RANKS
from jaxrobust.array_types import Scalar
from jaxrobust.evaluation import step
from jaxrobust.evaluation.analyses import curve
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.diagnose import check_counts
from jaxrobust.evaluation.rules import RADIUS, each, whole
from jaxrobust.evaluation.setting import Setting, picked
from jaxrobust.evaluation.text import parse_radius, times
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results.npz import CLEAN

FIELD = "analysis"
DEFAULTS: Mapping[str, Any] = {
    "examples": 500,
    "eps": ["2/255", "4/255", "8/255", "16/255", "32/255"],
    "steps": 10,
}
RULES = {"eps": each(RADIUS), "steps": whole(1)}
ATTACKS = True
QUICK = {"examples": 32, "steps": 2}
ON_CPU = {"examples": 200}


def check(fields: Fields) -> None:
    """Reads the fields."""
    read_eps(fields)


def at_radius(eps: str, step_size: str) -> Fields:
    """Returns what changes with the Linf radius of all."""
    del step_size
    return {"eps": [times(eps, share) for share in (0.25, 0.5, 1, 2, 4)]}


def run(context: Context, runs: Runs) -> Found:
    """Attacks the examples over a grid of radii; an empty one leaves it out."""
    fields, setting = context.fields, context.setting
    if not fields["eps"]:
        return Found()
    rows = picked(len(setting.indices), fields["examples"])
    part = setting.part(fields["examples"])
    found = ranks(part, runs[CLEAN].logits[rows], fields)
    return Found({"analyses": schema.Analyses(class_ranks=found)})


def read_eps(fields: Fields) -> list[float]:
    """Reads the growing radii of `config.eval.analysis` and checks the rest."""
    eps = [parse_radius(text, "eval.analysis.eps") for text in fields["eps"]]
    if any(b <= a for a, b in itertools.pairwise(eps)):
        raise ValueError(
            f"`eval.analysis.eps` must grow from one to the next, got "
            f"{list(fields['eps'])}."
        )
    check_counts(fields, "eval.analysis.")
    return eps


def ranks(
    setting: Setting, clean_logits: Float[np.ndarray, "N K"], fields: Fields
) -> schema.ClassRanks:
    """Returns where newly successful attacks end, for FGSM and MIM in Linf."""
    eps, steps = read_eps(fields), fields["steps"]
    clean_correct = clean_logits.argmax(-1) == setting.labels
    wanted = [rank for rank in RANKS if rank <= clean_logits.shape[-1]]
    swept: dict[str, Callable[[Scalar], step.Attack]] = {
        "fgsm": lambda eps: attacks.get("fgsm", eps=eps),
        "mim": lambda eps: attacks.get(
            "mim", eps=eps, step_size=eps / steps, steps=steps
        ),
    }
    found = []
    for name, make_attack in swept.items():
        begin = time.monotonic()
        predicted = curve.predicted(setting, make_attack, eps, f"ranks_{name}")
        correct = predicted == setting.labels[:, None]
        newly = analysis.newly_successful(correct, clean_correct)
        logits = jnp.asarray(clean_logits)
        columns = map(jnp.asarray, predicted.T)
        at = np.stack([analysis.class_rank(logits, column) for column in columns], -1)
        shares = analysis.rank_shares(at, newly, wanted)
        found.append(
            schema.Sweep(
                name=name,
                steps=steps if "steps" in attacks.hyperparameters(name) else 1,
                newly_successful=shares.number.tolist(),
                share=shares.share.tolist(),
                robust_accuracy=correct.mean(0).tolist(),
                seconds=time.monotonic() - begin,
            )
        )
    return schema.ClassRanks(
        norm="linf",
        eps=eps,
        eps_text=[str(text) for text in fields["eps"]],
        ranks=wanted,
        attacks=found,
        n=len(clean_logits),
        n_correct=int(clean_correct.sum()),
    )
