"""Perturbation growth ratio: how much a stage of a network enlarges a perturbation.

Kim et al., ECCV 2020, arXiv 2010.10047, section 4.3: for a stage G with input h,
||G(h_adv) - G(h)||_p / ||h_adv - h||_p per image, averaged over the test images.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrobust.array_types import PerExample

FeatureMap = Mapping[str, Float[Array, "B ..."]]


class Growth(NamedTuple):
    """Ratio of one stage per image: 0, and not `perturbed`, where its input stays."""

    ratio: PerExample
    perturbed: Bool[Array, "B"]


class Mean(NamedTuple):
    """Growth of one stage over the images that are perturbed there; NaN if none is."""

    mean: float
    images: int


def stage_names(features: FeatureMap) -> tuple[str, ...]:
    """Returns the stages with `NAME/in` and `NAME/out` among the features, in order."""
    inputs = [name.removesuffix("/in") for name in features if name.endswith("/in")]
    return tuple(sorted(name for name in inputs if f"{name}/out" in features))


def growth_ratios(
    clean: FeatureMap, adversarial: FeatureMap, *, p: int = 2
) -> dict[str, Growth]:
    """Measures how much each stage enlarges the perturbation of each image.

    Args:
      clean: features of clean images, `Outputs.features`, with `stageK/in` and
        `stageK/out`, each `[B, ...]`.
      adversarial: the same of the perturbed images.
      p: 1 or 2, the norm, over the flattened features.

    Raises:
      ValueError: for another `p`, or features without stages.
    """
    if p not in (1, 2):
        raise ValueError(f"`p` must be 1 or 2, got {p!r}.")
    names = stage_names(clean)
    if not names:
        raise ValueError(
            "`clean` has no stage features ('stage1/in', 'stage1/out' ...), got "
            f"{', '.join(clean) or 'nothing'}; use a network that returns them."
        )

    def size(name: str) -> PerExample:
        difference = adversarial[name] - clean[name]
        rows = jnp.abs(difference.reshape(difference.shape[0], -1))
        return jnp.sum(rows, 1) if p == 1 else jnp.linalg.norm(rows, axis=1)

    def ratio(name: str) -> Growth:
        before, after = size(f"{name}/in"), size(f"{name}/out")
        perturbed = before != 0
        divided = after / jnp.where(perturbed, before, 1)
        return Growth(jnp.where(perturbed, divided, 0), perturbed)

    return {name: ratio(name) for name in names}


def mean_growth(parts: Sequence[Mapping[str, Growth]]) -> dict[str, Mean]:
    """Averages over all images of one or more batches, on the host in float64."""
    means = {}
    for name in parts[0]:
        ratio = np.concatenate([np.asarray(part[name].ratio) for part in parts])
        perturbed = np.concatenate([np.asarray(part[name].perturbed) for part in parts])
        kept = ratio[perturbed].astype(np.float64)
        mean = float(kept.mean()) if kept.size else float("nan")
        means[name] = Mean(mean, int(kept.size))
    return means
