"""The check whether a gradient is the network's, as numbers of results.json."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from jaxrobust.analysis import slopes
from jaxrobust.results import schema

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


def summary(found: slopes.Slopes, resolution: float) -> schema.GradientCheck:
    """Makes numbers of gradients beside finite differences, measured at a resolution.

    What the gradient tells of three quarters of the images at least (`QUANTILE`) counts
    per point and distance; it is None where too few have a change that is clear of
    rounding, and near by in half precision.
    """
    explained = {
        f"{place}_{distance}": _lower(found.explained[i, j])
        for i, place in enumerate(PLACES)
        for j, distance in enumerate(DISTANCES)
    }
    near = [explained[f"{place}_near"] for place in PLACES if resolution < _HALF]
    rises = found.rises[np.isfinite(found.rises)]
    return schema.GradientCheck(
        explained=_least(explained.values()),
        explained_at=explained,
        explained_near=_least(near),
        misled_share=_misled(found.explained),
        loss_rises_share=float(rises.mean()) if len(rises) else None,
        loss_rises_n=len(rises),
        zero_slope_share=float(found.zero.mean(-1).max()),
        changed_share=float(found.changed.mean()),
    )


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


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
