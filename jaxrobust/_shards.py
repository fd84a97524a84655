"""Values inside of `jax.shard_map`, whose types say over which devices they vary."""

from collections.abc import Iterable
from typing import Any, TypeVar

import jax
from jax.core import Tracer

T = TypeVar("T")


def varied_alike(tree: T) -> T:
    """Returns arrays that all vary over the devices that any of them varies over.

    What a loop carries, and what a gradient is pulled back from, must not change its
    type. Elsewhere nothing varies, and the arrays are returned as they are.
    """
    axes = frozenset[str]().union(*map(_axes, jax.tree.leaves(tree)))
    return varied_over(tree, axes) if axes else tree


def varied_over(tree: T, axes: Iterable[str]) -> T:
    """Returns arrays that vary over axes of the mesh; some of them may already."""

    def varied(leaf: Any) -> Any:
        missing = tuple(sorted(frozenset(axes) - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(varied, tree)


def _axes(leaf: Any) -> frozenset[str]:
    """Returns the axes of the mesh that a value varies over."""
    aval = leaf.aval if isinstance(leaf, Tracer) else leaf
    return getattr(getattr(aval, "manual_axis_type", None), "varying", frozenset())
