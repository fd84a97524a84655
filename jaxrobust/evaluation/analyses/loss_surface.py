"""The loss of a few images over a plane: along an attack and a random direction."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrobust import losses, models, threat
from jaxrobust.array_types import Images, Key, Norm
from jaxrobust.evaluation import step
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.entries import Entry
from jaxrobust.evaluation.rules import Rule, broken, number, whole
from jaxrobust.evaluation.setting import Setting, fetched
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results import npz

FIELD = "loss_surface"
DEFAULTS: Mapping[str, Any] = {
    "enabled": False,
    "examples": 3,
    "points": 21,  # to a side of the plane: forward passes per image are the square
    "reach": 2.0,  # radii, from the middle to each side
}
_SIDES = range(3, 102, 2)
RULES = {
    "examples": whole(1, 100),
    "points": Rule("odd and 3 to 101", lambda v: type(v) is int and v in _SIDES),
    "reach": number(0, 100, above=True),
}
ATTACKS = True


def check(fields: Fields) -> None:
    """Looks at the size of the plane."""
    for name, rule in RULES.items():
        for told in broken(f"eval.{FIELD}.{name}", fields[name], rule):
            raise ValueError(told)


def run(context: Context, runs: Runs) -> Found:
    """Looks from the images along the strongest attack that has a radius."""
    fields = context.fields
    inside = [
        e for e in context.entries if e.in_step and e.eps and e.norm in threat.NORMS
    ]
    if not inside:
        return Found()
    strongest = min(inside, key=lambda entry: runs[entry.label].accuracy)
    part = context.setting.part(fields["examples"])
    at = np.linspace(-fields["reach"], fields["reach"], fields["points"])
    run_step = _surface_step(part, strongest, at)
    loss, margin = [], []
    # The same key as in the attack's own run makes the same images.
    passes = part.iterate(run_step, strongest.label, copies=len(at))
    for rows, out in passes:
        loss.append(fetched(out["loss"], rows))
        margin.append(fetched(out["margin"], rows))
    arrays = npz.LossSurfaceArrays(
        surface_loss=np.concatenate(loss),
        surface_margin=np.concatenate(margin),
        surface_labels=part.labels,
        surface_at=at,
    )
    found = schema.LossSurface(
        attack=strongest.label,
        norm=strongest.norm,
        eps=strongest.eps or 0.0,
        eps_text=strongest.written,
        n=len(part.labels),
    )
    return Found({"loss_surface": found}, arrays.named())


def _surface_step(
    setting: Setting, entry: Entry, at: Float[np.ndarray, "P"]
) -> step.EvalStep:
    """Builds a step that gives cross-entropy and margin loss [B, P, P] on the plane.

    The first axis goes along the attack, the second along random signs; 1 is as far as
    the radius. Images outside of [0, 1] are clipped, as those of attacks are.
    """
    model, eps = setting.model, entry.eps or 0.0

    def run(variables, x, labels, keys) -> dict[str, Any]:
        logits_fn = models.logits_fn(model, variables)
        x_adv = entry.make(model, variables)(logits_fn, x, labels, keys)
        signs = jax.vmap(lambda key: _signs(key, x.shape[1:]))(keys)
        along, across = (eps * _unit(move, entry.norm) for move in (x_adv - x, signs))
        # A row of the plane at a time: as many images as there are points to a side.
        places = jnp.asarray(at, x.dtype)

        def row(a: Array) -> tuple[Array, Array]:
            def value(b: Array) -> tuple[Array, Array]:
                logits = logits_fn(jnp.clip(x + a * along + b * across, 0, 1))
                logits = step.float_logits(logits)
                each = losses.cross_entropy, losses.margin
                found = [loss(logits, labels) for loss in each]
                return found[0], found[1]

            return jax.vmap(value)(places)

        loss, margin = jax.lax.map(row, places)
        return {
            "logits": step.float_logits(logits_fn(x_adv)),
            "loss": jnp.moveaxis(loss, -1, 0),
            "margin": jnp.moveaxis(margin, -1, 0),
        }

    return step.jitted(run, setting.precision)


def _signs(key: Key, shape: tuple[int, ...]) -> Array:
    # Another draw than the attack's, from the image's own key.
    return jax.random.rademacher(jax.random.fold_in(key, 2**20), shape, jnp.float32)


def _unit(move: Images, norm: Norm) -> Images:
    """Makes each image's move as long as 1 in a norm; what is 0 stays."""
    size = threat.distance(move, jnp.zeros_like(move), norm=norm)
    size = size.reshape(-1, *[1] * (move.ndim - 1))
    return move / jnp.where(size > 0, size, 1)
