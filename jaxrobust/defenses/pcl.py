"""Prototype conformity loss (Mustafa et al., ICCV 2019, arXiv 1904.00887).

Cross-entropy, plus for each of some feature vectors h: the squared distance to a
learned centre of the own class, minus a little of the distances to centres of the
others. The centres are `params['extra']`, labelled `proximity` and `contrastive` for
their own optimisers.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import losses
from jaxrobust._checks import FINITE, check_number
from jaxrobust.array_types import Images, Key, Labels, PyTree, Scalar, Variables
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params
from jaxrobust.models import Outputs

LAYERS = ("pooled", "embedding")
TABLES = ("proximity", "contrastive")  # of centres, one row per class


def pcl(
    model: nn.Module,
    *,
    layers: Sequence[str] = LAYERS,
    proximity_weight: float = 1.0,
    contrastive_weight: float = 1e-4,
    separation_weight: float = 0.0,
    warmup_steps: int = 0,
) -> base.Defense:
    """Cross-entropy for `warmup_steps` steps, then the joint objective, equation 7.

    Args:
      model: a network whose `Outputs.features` hold `layers`.
      layers: the feature vectors [B, D] that have centres.
      proximity_weight: of the distance to the own class's centre.
      contrastive_weight: of the mean distance to the other classes' centres.
      separation_weight: of the mean distance between the centres of `proximity`, the
        paper's term that the release lacks. It has no bound: keep it small; from about
        .5 the centres run away by themselves.
      warmup_steps: of plain cross-entropy first; the centres rest meanwhile.

    Raises:
      ValueError: for a negative weight or no layers; from `init`, for a layer that the
        network does not have.
    """
    terms = _Prototypes(layers, proximity_weight, contrastive_weight, separation_weight)
    return _defense(model, terms, warmup_steps)


def pcl_adversarial(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_name: str = "fgsm",
    attack_bn: str = "eval",
    attack_warmup_steps: int = 0,
    eps_range: Sequence[float] = (0.02, 0.05),
    layers: Sequence[str] = LAYERS,
    proximity_weight: float = 1.0,
    contrastive_weight: float = 1e-5,
    separation_weight: float = 0.0,
    warmup_steps: int = 0,
) -> base.Defense:
    """`pcl` on each batch together with its attacked copy, as the release does.

    During the warm-up the clean images stand in for the attacked ones. The attack is
    `fgsm` or `pgd` in the release (step 2/255, 10 steps, no random start). `eps_range`
    is (low, high), one radius for each batch, uniform, and not with a warm-up of the
    attack; where it is empty, that of `attack` counts. `layers`, weights and
    `warmup_steps` are as of `pcl`.

    Raises:
      ValueError: as `pcl`, and for an unknown attack or a radius out of range.
      TypeError: for a hyperparameter that the attack does not have.
    """
    terms = _Prototypes(layers, proximity_weight, contrastive_weight, separation_weight)
    prepare = base.attacker(
        model, attack_name, attack, attack_bn, attack_warmup_steps, eps_range=eps_range
    )
    return _defense(model, terms, warmup_steps, prepare)


def _defense(
    model: nn.Module,
    terms: "_Prototypes",
    warmup_steps: int,
    prepare: base.Prepare | None = None,
) -> base.Defense:
    """Puts the terms on clean images or, with `prepare`, on clean and attacked ones."""
    check_number("warmup_steps", warmup_steps, FINITE)
    parts = ("accuracy", "robust_accuracy") if prepare else ("accuracy",)

    def loss(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        x, joint = batch["image"], step >= warmup_steps
        y = jnp.concatenate([batch["label"]] * len(parts))
        if prepare:
            # The warm-up sees clean images twice: shapes do not change with the step.
            x = jnp.concatenate([x, jnp.where(joint, batch["attacked"], x)])
        out, state = base.forward(model, params, state, x, key)
        value, metrics = terms(out, y, params["extra"], joint)
        for name, logits in zip(parts, jnp.split(out.logits, len(parts)), strict=True):
            metrics[name] = base.accuracy(logits, batch["label"])
        return value, (state, metrics)

    init = functools.partial(terms.init, model)
    return base.Defense((base.Phase(loss, prepare),), init, _labels)


@dataclasses.dataclass(frozen=True)
class _Prototypes:
    """The loss terms and the centres they need; fields as the arguments of `pcl`."""

    layers: Sequence[str]
    proximity_weight: float
    contrastive_weight: float
    separation_weight: float

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) or not self.layers:
            raise ValueError(
                "`layers` must be a tuple of at least one name of the network's "
                f"features, got {self.layers!r}."
            )
        for field in dataclasses.fields(self)[1:]:
            check_number(field.name, getattr(self, field.name), FINITE)

    def __call__(
        self, out: Outputs, y: Labels, extra: Params, joint: Array
    ) -> tuple[Scalar, dict[str, Any]]:
        """Returns the loss: cross-entropy, and all the rest where `joint`."""
        near, far, apart = 0.0, 0.0, 0.0
        pull, push = self.proximity_weight, self.contrastive_weight
        for layer in self.layers:
            h = out.features[layer]
            own, others = (extra[table][layer] for table in TABLES)
            near += _weighted(losses.proximity, h, y, own, pull)
            far += _weighted(losses.contrastive_proximity, h, y, others, push)
            if self.separation_weight:
                apart += self.separation_weight * losses.center_separation(own)
        cross_entropy = losses.cross_entropy(out.logits, y).mean()
        # `where` keeps one compiled step; its gradient is 0 in the part not chosen.
        loss = cross_entropy + jnp.where(joint, near - far - apart, 0)
        terms = {"proximity": near, "contrastive": far}
        return loss, {"cross_entropy": cross_entropy, **terms}

    def init(
        self, model: nn.Module, key: Key, variables: Variables, example: Images
    ) -> PyTree:
        """Returns centres from N(0, 1), a table of each kind for each layer."""
        out = base.outputs_like(model, variables, example)
        sizes = _sizes(out, self.layers, type(model).__name__)
        dtype = jnp.promote_types(example.dtype, jnp.float32)
        tables = {}
        for number, name in enumerate(TABLES):
            keys = jax.random.split(jax.random.fold_in(key, number), len(sizes))
            tables[name] = {
                layer: jax.random.normal(k, (out.logits.shape[-1], size), dtype)
                for (layer, size), k in zip(sizes.items(), keys, strict=True)
            }
        return tables


def _sizes(out: Outputs, layers: Sequence[str], network: str) -> dict[str, int]:
    """Returns the length of each layer's features; ValueError where it is no vector."""
    vectors = {k: v.shape[1] for k, v in out.features.items() if len(v.shape) == 2}
    for layer in layers:
        if layer not in vectors:
            raise ValueError(
                f"`layers`: {network} has no feature vector {layer!r}; it has "
                f"{', '.join(sorted(vectors)) or 'none'}. Set objective.layers, or the "
                "network's branches."
            )
    return {layer: vectors[layer] for layer in layers}


def _labels(params: Params) -> PyTree:
    """Returns the optimiser label of every leaf: each table of centres has its own."""
    trees = {"model": params["model"], **params["extra"]}
    labels = {k: jax.tree.map(lambda _, k=k: k, tree) for k, tree in trees.items()}
    return {"model": labels.pop("model"), "extra": labels}


def _weighted(
    distance: Callable[..., Array], h: Array, y: Labels, centers: Array, weight: float
) -> Scalar:
    """Returns `weight` times the mean distance of features h.

    Its gradient in the centres is that of the mean itself: the release divides theirs
    by the weight, so that the centres move at their optimiser's rate.
    """
    fixed = jax.lax.stop_gradient
    # Two distances of one value, so that each side has a gradient of its own.
    of_features = distance(h, y, fixed(centers)).mean()
    of_centers = distance(fixed(h), y, centers).mean()
    return weight * of_features + (of_centers - fixed(of_centers))
