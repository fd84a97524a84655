"""Perturbation growth ratio: how much a stage of a network enlarges a perturbation.

Kim et al., ECCV 2020, arXiv 2010.10047, section 4.3: for a stage G with input h,
||G(h_adv) - G(h)||_p / ||h_adv - h||_p per image, averaged over the test images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrobust.array_types import Images, PerExample

FeatureMap = Mapping[str, Float[Array, "B ..."]]


class Growth(NamedTuple):
    """Growth of one stage.

    Attributes:
      ratio: per image; 0 where the input of the stage is not perturbed.
      perturbed: whether it is; the others do not count.
    """

    ratio: PerExample
    perturbed: Bool[Array, "B"]


class Mean(NamedTuple):
    """Growth of one stage over many images.

    Attributes:
      mean: over the images that are perturbed at the stage; NaN if none is.
      images: how many these are.
      unperturbed: how many are left out.
    """

    mean: float
    images: int
    unperturbed: int


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

    Returns:
      Growth per stage.

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
        means[name] = Mean(mean, int(kept.size), int((~perturbed).sum()))
    return means


def measure_growth(
    features_fn: Callable[[Images], FeatureMap],
    x: Images,
    x_adv: Images,
    *,
    norms: Sequence[int] = (1, 2),
    batch_size: int = 100,
) -> dict[int, dict[str, Mean]]:
    """Measures the growth over a set of images, batch by batch.

    Args:
      features_fn: images `[B, H, W, C]` to features, in evaluation mode; a
        `jax.tree_util.Partial` keeps its arrays as arguments of the compiled step.
      x: clean images `[N, H, W, C]`.
      x_adv: attacked images, row by row.
      norms: of 1 and 2.
      batch_size: rows at a time; the last batch is filled up, the filling ignored.

    Returns:
      For each norm, the mean of each stage.

    Raises:
      ValueError: if `x` is empty or the shapes differ.
    """
    if x.shape != x_adv.shape or not x.shape[0]:
        raise ValueError(
            f"`x` and `x_adv` must be alike and not empty, got "
            f"{x.shape} and {x_adv.shape}."
        )

    # Compiled for this call alone: a longer-lived cache would keep the network alive.
    @jax.jit
    def ratios(features_fn: jax.tree_util.Partial, x: Images, x_adv: Images):
        clean, adversarial = features_fn(x), features_fn(x_adv)
        return {p: growth_ratios(clean, adversarial, p=p) for p in norms}

    bound = jax.tree_util.Partial(features_fn)
    parts: dict[int, list[dict[str, Growth]]] = {p: [] for p in norms}
    size = min(batch_size, x.shape[0])
    for begin in range(0, x.shape[0], size):
        rows = np.arange(begin, begin + size).clip(max=x.shape[0] - 1)
        batch = ratios(bound, x[rows], x_adv[rows])
        count = min(size, x.shape[0] - begin)
        for p in norms:
            parts[p].append(jax.tree.map(lambda a, n=count: a[:n], batch[p]))
    return {p: mean_growth(parts[p]) for p in norms}
