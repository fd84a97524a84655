"""What an attack does inside a network: features, prototypes, restored images."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrobust import analysis, models
from jaxrobust.evaluation import step
from jaxrobust.evaluation.adaptive import centers_of
from jaxrobust.evaluation.analyses import base
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.entries import Entry
from jaxrobust.evaluation.setting import Setting, fetched
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results import npz

FIELD = "analysis"
# Of as many examples as `class_ranks` says.
DEFAULTS: Mapping[str, Any] = {}
Arrays = dict[str, np.ndarray]


def check(fields: Fields) -> None:
    """Has nothing to check: its fields are those of `class_ranks`."""


def run(context: Context, runs: Runs) -> Found:
    """Looks at the network under the strongest attack of a fixed radius."""
    inside = [e for e in context.entries if e.in_step and e.eps is not None]
    if not inside:
        return Found()
    part = context.setting.part(context.fields["examples"])
    strongest = min(
        inside, key=lambda e: (runs[e.label].accuracy, -runs[e.label].loss.mean())
    )
    found, arrays = under(part, strongest, context.shown)
    return Found({"analyses": found}, arrays)


def under(setting: Setting, entry: Entry, keep: int) -> tuple[schema.Analyses, Arrays]:
    """Returns features, distances to prototypes and restored images under one attack.

    The examples meet the same attacked images as in its own run; so many restored ones
    are kept. Both parts of results.json and arrays of evaluation.npz are empty for a
    network without features, centres and restored images.
    """
    out = base.outputs_of(setting)
    if out is None:
        return schema.Analyses(), {}
    layers = sorted(set(centers_of(setting.variables)) & set(out.features))
    if not layers and "penultimate" not in out.features and out.restored is None:
        return schema.Analyses(), {}
    parts: dict[str, list[np.ndarray]] = {}
    run_step = _inside_step(setting, entry, layers)
    for rows, found in setting.iterate(run_step, entry.label):
        # In one order on every process: fetching is a collective.
        for name in sorted(found.keys() - {"logits"}):
            last = keep if name in ("restored", "x_adv") else rows.stop
            if rows.start < last:
                value = fetched(found[name], rows)[: last - rows.start]
                parts.setdefault(name, []).append(value)
    arrays = {name: np.concatenate(part) for name, part in parts.items()}
    kept = _for_file(setting, layers, arrays)
    return _describe(entry.label, layers, arrays), kept


def _inside_step(
    setting: Setting, entry: Entry, layers: Sequence[str]
) -> step.EvalStep:
    """Builds a step that shows what an attack does in a network.

    As far as the network has any, it gives, for the clean and the attacked images
    (second axis): `features` [B, 2, D] of the penultimate layer; `restored`
    [B, 2, H, W, C], `x_adv` and the mean squared `errors` [B, 3] of attacked, restored
    clean and restored attacked images; and `distances/LAYER` [B, 2, 2] to the own and
    the nearest other centre of `centers_of`.
    """
    model = setting.model

    def run(variables, x, labels, keys) -> dict[str, Any]:
        attack, centers = entry.make(model, variables), centers_of(variables)
        x_adv = attack(models.logits_fn(model, variables), x, labels, keys)
        outs = [base.apply(model, variables, z) for z in (x, x_adv)]

        def measure(out: models.Outputs, layer: str) -> Array:
            given = out.features[layer], labels, centers[layer]
            return jnp.stack(analysis.prototype_distances(*given), -1)

        found: dict[str, Any] = {"logits": step.float_logits(outs[1].logits)}
        found |= {npz.distances(n): _pair(measure(o, n) for o in outs) for n in layers}
        if "penultimate" in outs[0].features:
            flat = [out.features["penultimate"] for out in outs]
            found["features"] = _pair(h.reshape(len(h), -1) for h in flat)
        restored = [out.restored for out in outs if out.restored is not None]
        if restored:
            moved = [z - x for z in (x_adv, *restored)]
            errors = [jnp.mean(jnp.square(d), (1, 2, 3)) for d in moved]
            found |= {"restored": _pair(restored), "errors": jnp.stack(errors, -1)}
            found["x_adv"] = x_adv
        return found

    return step.jitted(run, setting.precision)


def _pair(sides: Any) -> Array:
    return jnp.stack([side.astype(jnp.float32) for side in sides], 1)


def _describe(label: str, layers: Sequence[str], arrays: Arrays) -> schema.Analyses:
    """Returns the numbers."""
    found: dict[str, Any] = {}
    if "features" in arrays:
        count, _, width = arrays["features"].shape
        found["features"] = schema.Features(attack=label, n=count, width=width)
    if layers:
        found_at = {layer: arrays[npz.distances(layer)] for layer in layers}
        count = len(found_at[layers[0]])
        each = {layer: _distances(found) for layer, found in found_at.items()}
        found["prototypes"] = schema.Prototypes(attack=label, n=count, layers=each)
    if "errors" in arrays:
        mean = arrays["errors"].mean(0, dtype=np.float64)
        attacked, clean, restored = map(float, mean)
        mse = schema.Errors(
            attacked=attacked, restored_clean=clean, restored_attacked=restored
        )
        count = len(arrays["errors"])
        found["restoration"] = schema.Restoration(attack=label, n=count, mse=mse)
    return schema.Analyses(**found)


def _distances(found: np.ndarray) -> schema.Layer:
    """Describes distances [N, 2, 2] to the own and the nearest other centre."""
    clean, attacked = (
        schema.Distances(
            own=float(own.mean(dtype=np.float64)),
            other=float(other.mean(dtype=np.float64)),
            nearest_is_own=float((own < other).mean()),
        )
        for own, other in np.moveaxis(found, 0, -1)
    )
    return schema.Layer(clean=clean, attacked=attacked)


def _for_file(setting: Setting, layers: Sequence[str], arrays: Arrays) -> Arrays:
    """Names the arrays as evaluation.npz has them."""
    kept = {name: arrays[name] for name in map(npz.distances, layers)}
    if "features" in arrays:
        features, labels = arrays["features"], setting.labels
        kept |= npz.FeaturesArrays(features=features, features_labels=labels).named()
    if count := len(arrays.get("restored", ())):
        kept |= npz.Restored(
            restored=arrays["restored"],
            restored_x_adv=arrays["x_adv"],
            restored_images=setting.dataset.images[setting.indices[:count]],
            restored_labels=setting.labels[:count],
        ).named()
    return kept
