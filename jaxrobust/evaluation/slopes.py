"""The check whether a gradient is the network's, as numbers of results.json."""

from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrobust.analysis import slopes
from jaxrobust.array_types import Bounds, Images, Key, Labels, Norm
from jaxrobust.evaluation.network import Network

# Fewer images than this share say nothing about the others.
_LEAST = 0.1
# Of the images, from the worst: where a gradient is broken for a quarter, it is broken.
QUANTILE = 0.25
PLACES = ("clean", "in_ball")
DISTANCES = ("near", "far")


def look(
    network: Network,
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
    return summary(
        slopes.measure(
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
    )


def summary(found: slopes.Slopes) -> dict[str, Any]:
    """Makes numbers of what was measured.

    Returns:
      `explained`, the least of `explained_at`, by point and distance: what the gradient
      tells of three quarters of the images at least (`QUANTILE`; None where too few
      have a change that is clear of rounding); `loss_rises_share` of `loss_rises_n`
      images and points; `zero_slope_share`, where the gradient of the log-odds is 0;
      `changed_share`, whose prediction changes.
    """
    explained = {
        f"{place}_{distance}": _lower(found.explained[i, j])
        for i, place in enumerate(PLACES)
        for j, distance in enumerate(DISTANCES)
    }
    known = [value for value in explained.values() if value is not None]
    rises = found.rises[np.isfinite(found.rises)]
    return {
        "explained": min(known) if known else None,
        "explained_at": explained,
        "loss_rises_share": float(rises.mean()) if len(rises) else None,
        "loss_rises_n": len(rises),
        "zero_slope_share": float(found.zero.mean(-1).max()),
        "changed_share": float(found.changed.mean()),
    }


def _lower(explained: Float[np.ndarray, "N"]) -> float | None:
    known = explained[np.isfinite(explained)]
    if len(known) < _LEAST * len(explained):
        return None
    return float(np.quantile(known, QUANTILE))
