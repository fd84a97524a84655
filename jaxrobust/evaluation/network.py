"""Any function to logits, compiled for one batch size."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust.analysis import masking
from jaxrobust.array_types import Images, Labels, Logits, LogitsFn, Scalar
from jaxrobust.attacks._capture import capture
from jaxrobust.attacks._jaxprs import inner_jaxprs


@dataclasses.dataclass(frozen=True)
class CompiledNetwork:
    """A network compiled for one batch size, as functions of any number of images.

    Attributes:
      forward: images `[N, H, W, C]` to logits `[N, K]`.
      gradient: images, labels `[N]` and a scale of the logits in the loss to the input
        gradient of the cross-entropy and the logits.
      slope: images and labels to the input gradient of the log-odds and the logits.
      size: images per compiled call.
      resolution: `finfo(dtype).eps` of the coarsest float type it computes with.
    """

    forward: masking.Forward
    gradient: Callable[[Images, Labels, float], tuple[Images, Logits]]
    slope: masking.Gradient
    size: int
    resolution: float


def compile_network(logits_fn: LogitsFn, x: Images, batch_size: int) -> CompiledNetwork:
    """Traces a network once; its weights are arguments of what is compiled.

    Args:
      logits_fn: images to logits, anyone's.
      x: images like those that it will get; only their shape counts.
      batch_size: images per compiled call, no more than there are in `x`.
    """
    size = min(batch_size, len(x))
    like = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    held = capture(logits_fn, like)
    arrays = jax.device_put(held.arrays)
    forward = jax.jit(lambda arrays, z: losses.comparable(held.fn(arrays, z)))

    @jax.jit
    def gradient(
        arrays: Any, scale: Scalar, odds: Scalar, x: Images, y: Labels
    ) -> tuple[Images, Logits]:
        fn = functools.partial(held.fn, arrays)
        return masking.input_gradient(fn, x, y, scale, odds)

    def all_forward(x: Images) -> Logits:
        return in_batches(lambda rows: forward(arrays, rows), size, x)

    def all_gradient(
        x: Images, y: Labels, scale: float, *, odds: bool = False
    ) -> tuple[Images, Logits]:
        call = functools.partial(gradient, arrays, scale, odds)
        return in_batches(call, size, x, y)

    def slope(x: Images, y: Labels) -> tuple[Images, Logits]:
        return all_gradient(x, y, 1.0, odds=True)

    resolution = coarsest(forward.trace(arrays, like).jaxpr.jaxpr)
    return CompiledNetwork(all_forward, all_gradient, slope, size, resolution)


def coarsest(jaxpr: Any) -> float:
    """Returns the largest `finfo(dtype).eps` of the floats in a program."""
    found = [_resolution(var) for var in (*jaxpr.invars, *jaxpr.constvars)]
    for eqn in jaxpr.eqns:
        found += [_resolution(var) for var in eqn.outvars]
        found += [coarsest(inner) for inner, _ in inner_jaxprs(eqn.params)]
    return max(found, default=0.0)


def _resolution(var: Any) -> float:
    dtype = getattr(var.aval, "dtype", None)
    floating = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    return float(jnp.finfo(dtype).eps) if floating else 0.0


def in_batches(function: Callable[..., Any], size: int, *arrays: Any) -> Any:
    """Calls a function on batches of `size` rows; the last one repeats its last row."""
    total = len(arrays[0])
    if size == total:
        return function(*arrays)
    parts = []
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        parts.append(function(*(array[rows] for array in arrays)))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:total], *parts)
