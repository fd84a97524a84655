"""Prototype conformity loss (Mustafa et al., ICCV 2019, arXiv 1904.00887).

Cross-entropy, plus for each of some feature vectors h: the squared distance to a
learned centre of the own class, minus a little of the distances to centres of the
others. The centres are `params['extra']`, labelled `proximity` and `contrastive` for
their own optimisers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import losses, models
from jaxrobust._checks import FINITE, check_number
from jaxrobust.array_types import Images, Key, Labels, PyTree, Scalar, Variables
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params

LAYERS = ("pooled", "embedding")


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
    check_number("warmup_steps", warmup_steps, FINITE)
    terms = _Prototypes(layers, proximity_weight, contrastive_weight, separation_weight)

    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        x, y = batch["image"], batch["label"]
        out, model_state = base.forward(model, params, model_state, x, key)
        loss, metrics = terms(out, y, params["extra"], step >= warmup_steps)
        metrics["accuracy"] = base.accuracy(out.logits, y)
        return loss, (model_state, metrics)

    return base.Defense((base.Phase(loss),), terms.init_of(model), terms.labels)


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
    check_number("warmup_steps", warmup_steps, FINITE)
    terms = _Prototypes(layers, proximity_weight, contrastive_weight, separation_weight)
    if len(eps_range) not in (0, 2):
        raise ValueError(f"`eps_range` must be (low, high) or (), got {eps_range}.")
    prepare = base.attacker(
        model,
        attack_name,
        attack,
        attack_bn=attack_bn,
        warmup_steps=attack_warmup_steps,
        eps_range=(eps_range[0], eps_range[1]) if len(eps_range) else None,
    )

    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        clean, y = batch["image"], batch["label"]
        joint = step >= warmup_steps
        attacked = jnp.where(joint, batch["attacked"], clean)
        x, both = jnp.concatenate([clean, attacked]), jnp.concatenate([y, y])
        out, model_state = base.forward(model, params, model_state, x, key)
        loss, metrics = terms(out, both, params["extra"], joint)
        on_clean, on_attacked = jnp.split(out.logits, 2)
        metrics["accuracy"] = base.accuracy(on_clean, y)
        metrics["robust_accuracy"] = base.accuracy(on_attacked, y)
        return loss, (model_state, metrics)

    phase = base.Phase(loss, prepare)
    return base.Defense((phase,), terms.init_of(model), terms.labels)


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
        self, out: models.Outputs, y: Labels, extra: Params, joint: Array
    ) -> tuple[Scalar, dict[str, Any]]:
        """Returns the loss: cross-entropy, and all the rest where `joint`."""
        near, far, apart = 0.0, 0.0, 0.0
        for layer in self.layers:
            features = out.features[layer]
            centers = extra["proximity"][layer]
            distance, weight = losses.proximity, self.proximity_weight
            near += _weighted(distance, features, y, centers, weight)
            distance, weight = losses.contrastive_proximity, self.contrastive_weight
            others = extra["contrastive"][layer]
            far += _weighted(distance, features, y, others, weight)
            if self.separation_weight:
                apart += self.separation_weight * losses.center_separation(centers)
        cross_entropy = losses.cross_entropy(out.logits, y).mean()
        # `where` keeps one compiled step; its gradient is 0 in the part not chosen.
        loss = cross_entropy + jnp.where(joint, near - far - apart, 0)
        terms = {"proximity": near, "contrastive": far}
        return loss, {"cross_entropy": cross_entropy, **terms}

    def init_of(self, model: nn.Module) -> Callable[[Key, Variables, Images], PyTree]:
        """Returns the `init` of a defence: centres from N(0, 1)."""

        def init(key: Key, variables: Variables, example: Images) -> PyTree:
            sizes, classes = _sizes(model, variables, example, self.layers)
            dtype = jnp.promote_types(example.dtype, jnp.float32)
            tables = {}
            for number, name in enumerate(("proximity", "contrastive")):
                keys = jax.random.split(jax.random.fold_in(key, number), len(sizes))
                tables[name] = {
                    layer: jax.random.normal(k, (classes, size), dtype)
                    for (layer, size), k in zip(sizes.items(), keys, strict=True)
                }
            return tables

        return init

    def labels(self, params: Params) -> PyTree:
        """Returns the optimiser label of every leaf."""
        extra = {
            name: jax.tree.map(lambda _, name=name: name, table)
            for name, table in params["extra"].items()
        }
        model = jax.tree.map(lambda _: "model", params["model"])
        return {"model": model, "extra": extra}


def _weighted(
    distance: Callable[..., Array],
    features: Array,
    y: Labels,
    centers: Array,
    weight: float,
) -> Scalar:
    """Returns `weight` times the mean distance.

    Its gradient in the centres is that of the mean itself: the release divides theirs
    by the weight, so that the centres move at their optimiser's rate.
    """
    fixed = jax.lax.stop_gradient
    # Two distances of one value, so that each side has a gradient of its own.
    of_features = distance(features, y, fixed(centers)).mean()
    of_centers = distance(fixed(features), y, centers).mean()
    return weight * of_features + (of_centers - fixed(of_centers))


def _sizes(
    model: nn.Module, variables: Variables, example: Images, layers: Sequence[str]
) -> tuple[dict[str, int], int]:
    """Returns the length of each layer's features and the number of classes.

    Raises:
      ValueError: for a layer that is missing or no vector.
    """
    out = base.outputs_like(model, variables, example)
    vectors = {k: v.shape[1] for k, v in out.features.items() if len(v.shape) == 2}
    for layer in layers:
        if layer not in vectors:
            raise ValueError(
                f"`layers`: {type(model).__name__} has no feature vector {layer!r}; it "
                f"has {', '.join(sorted(vectors)) or 'none'}. Set objective.layers, or "
                "the network's branches."
            )
    return {layer: vectors[layer] for layer in layers}, out.logits.shape[-1]
