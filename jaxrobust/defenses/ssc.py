"""SSC-DM: adversarial training that keeps the geometry of the batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxrobust import losses
from jaxrobust._checks import FINITE, check_choice, check_number
from jaxrobust.array_types import Images, Key, Labels, PyTree, Variables
from jaxrobust.defenses import base
from jaxrobust.losses.ssc import COMPARISONS, DISTANCES
from jaxrobust.models import Outputs


def ssc(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_name: str = "fgsm",
    attack_bn: str = "train",
    attack_warmup_steps: int = 0,
    alpha: float = 0.0,
    beta: float = 1.0,
    structure_weight: float = 300.0,
    embedding: str = "logits",
    distance: str = "euc",
    same_class: bool = False,
    compare: str = "frobenius",
) -> base.Defense:
    """`alpha` CE(x) + `beta` CE(x_adv) + `structure_weight` L_s, equation 2.

    L_s is `losses.spatial_structure` of the batch, clean and attacked ("An Effective
    Deep Learning Adversarial Defense Method based on Spatial Structural Constraints in
    Embedding Space"). `same_class` and `compare='cosine'` make it RCC.

    Weights are at least 0, `alpha` or `beta` more (the release: alpha = 1 - beta = 0),
    `structure_weight` is lambda of the paper. `embedding` is `logits`, as released, or
    `penultimate`; `distance`, `compare` and pairs of the `same_class` only are of
    `losses.spatial_structure`.

    Raises:
      ValueError: for a weight out of range or an unknown choice.
    """
    weights = {"alpha": alpha, "beta": beta, "structure_weight": structure_weight}
    for name, value in weights.items():
        check_number(name, value, FINITE)
    if alpha == beta == 0:
        raise ValueError("`alpha` and `beta` are both 0: no term says what is right.")
    check_choice("embedding", embedding, ("logits", "penultimate"))
    check_choice("distance", distance, tuple(DISTANCES))
    check_choice("compare", compare, tuple(COMPARISONS))
    prepare = base.attacker(model, attack_name, attack, attack_bn, attack_warmup_steps)

    def loss(
        out: Outputs, out_adv: Outputs, y: Labels, step: Array
    ) -> base.LossAndMetrics:
        del step
        # The images of a batch meet in this term, so it depends on the batch size.
        structure = losses.spatial_structure(
            _embed(out, embedding),
            _embed(out_adv, embedding),
            distance,
            y=y if same_class else None,
            compare=compare,
        )
        clean = losses.cross_entropy(out.logits, y).mean()
        attacked = losses.cross_entropy(out_adv.logits, y).mean()
        total = alpha * clean + beta * attacked + structure_weight * structure
        return total, {"structure": structure}

    def init(key: Key, variables: Variables, example: Images) -> PyTree:
        del key
        _embed(base.outputs_like(model, variables, example), embedding)
        return {}

    defense = base.on_outputs(model, loss, base.PAIR, prepare)
    return dataclasses.replace(defense, init=init)


def _embed(out: Outputs, embedding: str) -> Float[Array, "B D"]:
    if embedding == "logits":
        return out.logits
    if embedding not in out.features:
        raise ValueError(
            f"the network gives no {embedding!r} features; use embedding='logits'."
        )
    return out.features[embedding]
