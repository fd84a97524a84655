"""Any function to logits, compiled for one batch size."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.analysis import masking
from jaxrobust.array_types import Images, Labels, Logits, LogitsFn, Scalar
from jaxrobust.attacks._capture import capture


@dataclasses.dataclass(frozen=True)
class Network:
    """A network compiled for one batch size, as functions of any number of images.

    Attributes:
      forward: images `[N, H, W, C]` to logits `[N, K]`.
      gradient: images, labels `[N]` and a scale of the logits in the loss to the input
        gradient of the cross-entropy and the logits.
      size: images per compiled call.
    """

    forward: masking.Forward
    gradient: Callable[[Images, Labels, float], tuple[Images, Logits]]
    size: int


def compile_network(logits_fn: LogitsFn, x: Images, batch_size: int) -> Network:
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
    forward = jax.jit(held.fn)

    @jax.jit
    def gradient(
        arrays: Any, scale: Scalar, x: Images, y: Labels
    ) -> tuple[Images, Logits]:
        return masking.input_gradient(lambda z: held.fn(arrays, z), x, y, scale)

    def all_forward(x: Images) -> Logits:
        return in_batches(lambda rows: forward(arrays, rows), size, x)

    def all_gradient(x: Images, y: Labels, scale: float) -> tuple[Images, Logits]:
        return in_batches(lambda *rows: gradient(arrays, scale, *rows), size, x, y)

    return Network(all_forward, all_gradient, size)


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
