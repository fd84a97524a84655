"""One perturbation for all images, and one patch: made on some, judged on others."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import attacks, models
from jaxrobust.array_types import Images
from jaxrobust.evaluation import statistics, step
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.rules import whole
from jaxrobust.evaluation.text import parse_radius
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results import npz

FIELD = "universal"
DEFAULTS: Mapping[str, Any] = {
    "enabled": False,
    "examples": 500,  # that it is judged on; as many others it is made on
    "eps": "8/255",  # of the perturbation, in Linf
    "side": 5,  # of the patch, in pixels; 0 = no patch
    "steps": 300,
    "batch": 64,
}
RULES = {
    "examples": whole(1, 100_000),
    "side": whole(0, 4096),
    "steps": whole(1, 100_000),
    "batch": whole(1, 100_000),
}
UNSAID = {"enabled": False}
ATTACKS = True
DIFFERENTIATES = True
ON_CPU = {"examples": 200}
QUICK = {"examples": 20, "steps": 3}
_KEY = 0x756E69


def at_radius(eps: str, step_size: str) -> Mapping[str, str]:
    """Returns what changes with the radius of all attacks."""
    del step_size
    return {"eps": eps}


def check(fields: Fields) -> None:
    """Reads the radius."""
    parse_radius(fields["eps"], f"eval.{FIELD}.eps")


def check_images(fields: Fields, shape: tuple[int, ...]) -> None:
    """Raises ValueError where the patch is larger than the images."""
    side = fields["side"]
    if fields["enabled"] and side > min(shape[:2]):
        raise ValueError(
            f"`eval.{FIELD}.side` must be at most the images' shorter side, got {side} "
            f"for images of {shape}."
        )


def run(context: Context, runs: Runs) -> Found:
    """Makes both on one half of some images, and judges them on the other half."""
    del runs
    fields, setting = context.fields, context.setting
    part = setting.part(2 * fields["examples"])
    count = len(part.labels) // 2
    if not count:
        return Found()
    images = step.to_float(jnp.asarray(part.dataset.images[part.indices]))
    labels = jnp.asarray(part.labels)
    # Every second one, so that both halves are of all classes.
    made, judged = slice(0, 2 * count, 2), slice(1, 2 * count, 2)
    logits_fn = models.logits_fn(setting.model, setting.variables)
    x, y = images[judged], labels[judged]
    given: dict[str, Any] = {
        "key": jax.random.key(_KEY),
        "steps": fields["steps"],
        "batch": min(fields["batch"], count),
    }
    eps = parse_radius(fields["eps"], f"eval.{FIELD}.eps")
    pasted = jax.random.key(_KEY + 1)
    data = logits_fn, images[made], labels[made]
    with jax.default_matmul_precision(setting.precision):
        added = attacks.universal(*data, eps=eps, **given)
        of = {"clean": x, "perturbed": attacks.perturbed(x, added)}
        patch = None
        if fields["side"]:
            patch = attacks.universal_patch(*data, side=fields["side"], **given)
            of["patched"] = attacks.patched(x, patch, key=pasted)
        right = {k: _right(logits_fn, v, y, setting.batch_size) for k, v in of.items()}
    clean = schema.OfSome(**statistics.share(right.pop("clean"), "accuracy"))
    share = {
        name: schema.RobustOfSome(**statistics.share(values, "robust_accuracy"))
        for name, values in right.items()
    }
    found = schema.Universal(
        n=count,
        eps_text=fields["eps"],
        side=fields["side"],
        clean=clean,
        perturbed=share["perturbed"],
        patched=share.get("patched"),
    )
    arrays = npz.UniversalArrays(
        universal_perturbation=np.asarray(added),
        universal_patch=None if patch is None else np.asarray(patch),
        universal_images=np.asarray(x[:3]),
        universal_patched=np.asarray(of["patched"][:3]) if "patched" in of else None,
    )
    return Found({"universal": found}, arrays.named())


def _right(logits_fn: Any, x: Images, y: Any, batch: int) -> np.ndarray:
    """Returns which images are classified rightly."""
    classify = jax.jit(lambda x: jnp.argmax(logits_fn(x), axis=1))
    parts = [classify(x[i : i + batch]) for i in range(0, len(x), batch)]
    return np.concatenate([np.asarray(one) for one in parts]) == np.asarray(y)
