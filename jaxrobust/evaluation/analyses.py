"""The analyses of one network: where attacks end, and what they do to its inside.

Numbers go to results.json under `analyses`, arrays to evaluation.npz; the report draws.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxrobust import analysis, attacks
from jaxrobust.analysis.ranks import RANKS
from jaxrobust.array_types import Scalar
from jaxrobust.evaluation import curve, inside, step, suite
from jaxrobust.evaluation.setting import Setting, choose

Results = dict[str, Any]
Arrays = dict[str, np.ndarray]
SWEPT = ("fgsm", "mim")


def read_eps(fields: Mapping[str, Any]) -> list[float]:
    """Reads the grid of radii of `config.eval.analysis` and checks the rest.

    Raises:
      ValueError: for a bad radius, a grid that does not grow or a count out of range.
    """
    eps = [suite.parse_radius(text, "eval.analysis.eps") for text in fields["eps"]]
    if any(b <= a for a, b in itertools.pairwise(eps)):
        raise ValueError(
            f"`eval.analysis.eps` must grow from one to the next, got "
            f"{list(fields['eps'])}."
        )
    for name, least in (("examples", 0), ("steps", 1)):
        if fields[name] < least:
            raise ValueError(
                f"`eval.analysis.{name}` must be at least {least}, got {fields[name]}."
            )
    return eps


def run(
    setting: Setting,
    entries: Sequence[suite.Entry],
    runs: Mapping[str, step.EvalRun],
    fields: Mapping[str, Any],
) -> tuple[Results, Arrays]:
    """Runs every analysis that the network allows.

    Args:
      setting: the network and the examples.
      entries: the attacks that ran.
      runs: what they found, by label, `clean` among them.
      fields: `config.eval`, with `analysis` and `grid`.

    Returns:
      The part `analyses` of results.json, and arrays for evaluation.npz.
    """
    wanted = fields["analysis"]
    rows = choose(len(setting.indices), wanted["examples"])
    part = setting.part(wanted["examples"])
    results: Results = {"probability_gap": gaps(setting.labels, runs)}
    arrays: Arrays = {}
    if wanted["eps"]:
        results["class_ranks"] = ranks(part, runs["clean"].logits[rows], wanted)
    candidates = [e for e in entries if e.in_step and e.eps is not None]
    if candidates:
        found, arrays = inside.run(part, strongest(candidates, runs), fields["grid"])
        results |= found
    return results, arrays


def strongest(
    entries: Sequence[suite.Entry], runs: Mapping[str, step.EvalRun]
) -> suite.Entry:
    """Returns the attack that leaves the least accuracy, then the largest loss."""
    return min(
        entries, key=lambda e: (runs[e.label].accuracy, -runs[e.label].loss.mean())
    )


def gaps(labels: Int[np.ndarray, "N"], runs: Mapping[str, step.EvalRun]) -> Results:
    """Returns the mean probability gap of all images and of those seen correctly.

    Those are the images that are correct before any attack, under each attack too.
    """
    right = runs["clean"].correct
    found = {}
    for label, one in runs.items():
        both = jnp.asarray(one.logits), jnp.asarray(labels)
        gap = np.asarray(analysis.probability_gap(*both), np.float64)
        mean = float(gap[right].mean()) if right.any() else None
        found[label] = {"all": float(gap.mean()), "correct": mean}
    return {
        "clean": found.pop("clean"),
        "attacks": [{"label": label, **values} for label, values in found.items()],
        "n": len(labels),
        "n_correct": int(right.sum()),
    }


def ranks(
    setting: Setting,
    clean_logits: Float[np.ndarray, "N K"],
    fields: Mapping[str, Any],
) -> Results:
    """Returns where newly successful attacks end, for FGSM and MIM in Linf.

    All radii run at once in one compiled step per attack.
    """
    eps, steps = read_eps(fields), fields["steps"]
    clean_correct = clean_logits.argmax(-1) == setting.labels
    wanted = [rank for rank in RANKS if rank <= clean_logits.shape[-1]]
    found = []
    for name in SWEPT:
        begin = time.monotonic()
        run_step = curve.make_curve_step(
            setting.model, _at(name, steps), eps, precision=setting.precision
        )
        predicted = np.concatenate(
            [
                out["logits"].argmax(-1)
                for _, out in setting.iterate(
                    run_step, f"ranks_{name}", copies=len(eps)
                )
            ]
        )
        correct = predicted == setting.labels[:, None]
        newly = analysis.newly_successful(correct, clean_correct)
        logits = jnp.asarray(clean_logits)
        columns = map(jnp.asarray, predicted.T)
        at = np.stack([analysis.class_rank(logits, column) for column in columns], -1)
        shares = analysis.rank_shares(at, newly, wanted)
        found.append(
            {
                "name": name,
                "steps": 1 if name == "fgsm" else steps,
                "newly_successful": shares.number,
                "share": shares.share,
                "robust_accuracy": correct.mean(0),
                "seconds": time.monotonic() - begin,
            }
        )
    return {
        "norm": "linf",
        "eps": eps,
        "eps_text": [str(text) for text in fields["eps"]],
        "ranks": wanted,
        "attacks": found,
        "n": len(clean_logits),
        "n_correct": int(clean_correct.sum()),
    }


def _at(name: str, steps: int) -> Callable[[Scalar], step.Attack]:
    """Returns radius -> attack; an iterative one steps by radius / steps."""

    def make_attack(eps: Scalar) -> step.Attack:
        if name == "fgsm":
            return attacks.get("fgsm", eps=eps)
        return attacks.get(name, eps=eps, step_size=eps / steps, steps=steps)

    return make_attack
