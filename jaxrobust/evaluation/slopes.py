"""The check whether a gradient is the network's, as numbers of results.json."""

from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrobust.analysis import slopes
from jaxrobust.array_types import Bounds, Images, Key, Labels, Norm
from jaxrobust.evaluation.network import CompiledNetwork

# Fewer images than this share say nothing about the others.
_LEAST = 0.1
# Of the images, from the worst: where a gradient is broken for a quarter, it is broken.
QUANTILE = 0.25
# An image is misled where at neither distance more of the change than this is told.
MISLED = 0.6
# A coarser float type moves logits by more than their own rounding on the way.
_HALF = 1e-5
PLACES = ("clean", "in_ball", "attacked")
DISTANCES = ("near", "far")


def look(
    network: CompiledNetwork,
    x: Images,
    y: Labels,
    *,
    keys: Key,
    eps: float,
    norm: Norm,
    bounds: Bounds,
) -> dict[str, Any]:
    """Compares the network's gradients with finite differences.

    Args:
      network: compiled.
      x: images `[N, H, W, C]`.
      y: labels `[N]`.
      keys: one per image.
      eps: radius of the ball.
      norm: of it.
      bounds: lowest and highest value of an image.

    Returns:
      As `summary`.
    """
    found = slopes.measure(
        network.forward,
        network.slope,
        x,
        y,
        keys=keys,
        eps=eps,
        norm=norm,
        bounds=bounds,
        resolution=network.resolution,
    )
    return summary(found, network.resolution)


def summary(found: slopes.Slopes, resolution: float) -> dict[str, Any]:
    """Makes numbers of what was measured.

    Args:
      found: what was measured.
      resolution: as it was measured with.

    Returns:
      `explained`, the least of `explained_at`, by point and distance: what the gradient
      tells of three quarters of the images at least (`QUANTILE`; None where too few
      have a change that is clear of rounding); `explained_near`, the least of the near
      ones, None in half precision; `misled_share`, of the images of which the gradient
      tells under `MISLED` at one of the points; `loss_rises_share` of `loss_rises_n`
      images and points; `zero_slope_share`, where the gradient of the log-odds is 0;
      `changed_share`, whose prediction changes.
    """
    explained = {
        f"{place}_{distance}": _lower(found.explained[i, j])
        for i, place in enumerate(PLACES)
        for j, distance in enumerate(DISTANCES)
    }
    known = [value for value in explained.values() if value is not None]
    near = [explained[f"{place}_near"] for place in PLACES]
    near = [value for value in near if value is not None and resolution < _HALF]
    rises = found.rises[np.isfinite(found.rises)]
    return {
        "explained": min(known) if known else None,
        "explained_at": explained,
        "explained_near": min(near) if near else None,
        "misled_share": _misled(found.explained),
        "loss_rises_share": float(rises.mean()) if len(rises) else None,
        "loss_rises_n": len(rises),
        "zero_slope_share": float(found.zero.mean(-1).max()),
        "changed_share": float(found.changed.mean()),
    }


def _misled(explained: Float[np.ndarray, "3 2 N"]) -> float:
    """Returns the share of images that are misled; one alone may be luck."""
    best = np.where(np.isfinite(explained), explained, -np.inf).max(1)
    misled = (np.isfinite(best) & (best < MISLED)).sum(-1).max()
    return float(misled / explained.shape[-1]) if misled > 1 else 0.0


def _lower(explained: Float[np.ndarray, "N"]) -> float | None:
    known = explained[np.isfinite(explained)]
    if len(known) < _LEAST * len(explained):
        return None
    return float(np.quantile(known, QUANTILE))
