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
from jaxrobust.evaluation.setting import padded_rows


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

    def slopes(
        x: Images, y: Labels, scale: float, *, odds: bool = False
    ) -> tuple[Images, Logits]:
        call = functools.partial(gradient, arrays, scale, odds)
        return in_batches(call, size, x, y)

    return CompiledNetwork(
        forward=lambda x: in_batches(functools.partial(forward, arrays), size, x),
        gradient=slopes,
        slope=functools.partial(slopes, scale=1.0, odds=True),
        size=size,
        resolution=coarsest(forward.trace(arrays, like).jaxpr.jaxpr),
    )


def coarsest(jaxpr: Any) -> float:
    """Returns the largest `finfo(dtype).eps` of the floats in a program."""
    variables = [*jaxpr.invars, *jaxpr.constvars]
    variables += [var for eqn in jaxpr.eqns for var in eqn.outvars]
    dtypes = {var.aval.dtype for var in variables if hasattr(var.aval, "dtype")}
    found = [jnp.finfo(d).eps for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    inner = (part for eqn in jaxpr.eqns for part, _ in inner_jaxprs(eqn.params))
    return max(map(float, [*found, *map(coarsest, inner)]), default=0.0)


def in_batches(function: Callable[..., Any], size: int, *arrays: Any) -> Any:
    """Calls a function on batches of `size` rows; the last one repeats its last row."""
    total = len(arrays[0])
    if size == total:
        return function(*arrays)
    parts = [
        function(*(array[rows] for array in arrays))
        for rows in padded_rows(total, size)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:total], *parts)
