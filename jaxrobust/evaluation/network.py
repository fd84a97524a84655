"""Any function to logits, compiled for one batch size."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.analysis import masking
from jaxrobust.array_types import Images, Labels, Logits, LogitsFn, Scalar
from jaxrobust.attacks._capture import capture
from jaxrobust.attacks._jaxprs import inner_jaxprs
from jaxrobust.evaluation import step


@dataclasses.dataclass(frozen=True)
class CompiledNetwork:
    """A network compiled for one batch size, as functions of any number of images.

    `gradient` and `slope` take images, labels [N] and give logits too: the input
    gradient of the cross-entropy of logits times a scale, and that of the log-odds.
    `size` images go per compiled call; `resolution` is `finfo(dtype).eps` of the
    coarsest float type that the network computes with.
    """

    forward: masking.Forward
    gradient: Callable[[Images, Labels, float], tuple[Images, Logits]]
    slope: masking.Gradient
    size: int
    resolution: float


def compile_network(logits_fn: LogitsFn, x: Images, batch_size: int) -> CompiledNetwork:
    """Traces a network on images like `x`; its weights stay arguments of programs."""
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

    slope = functools.partial(all_gradient, scale=1.0, odds=True)

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
    parts = [
        function(*(array[rows] for array in arrays))
        for rows in step.padded_rows(total, size)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:total], *parts)
