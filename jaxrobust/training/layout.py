"""How a run is spread over processes and devices, and what a change of it means."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh


def of(mesh: Mesh, feed: str) -> dict[str, Any]:
    """Returns the layout of this run, whose data are `resident` or `stream`."""
    return {"processes": jax.process_count(), "devices": mesh.size, "feed": feed}


def told(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns what a resumed run should say of a change; nothing if there is none.

    The layout of the run that wrote the checkpoint is empty if it is unknown.
    """
    if not saved or dict(saved) == dict(now):
        return ""
    feeds = saved["feed"] != now["feed"]
    there, here = _describe(saved, feeds), _describe(now, feeds)
    return (
        f"; it was saved by {there}, this is {here}: the batches are the same, "
        "parameters agree to rounding"
    )


def _describe(layout: Mapping[str, Any], feed: bool) -> str:
    count, devices = layout["processes"], layout["devices"]
    text = f"{count} process{'es' * (count > 1)} with {devices} device"
    return f"{text}{'s' * (devices > 1)}" + f" ({layout['feed']} data)" * feed
