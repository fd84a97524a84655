"""Functions of NumPy and PyTorch as networks that answer and have no gradient."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrobust.array_types import LogitsFn
from jaxrobust.evaluation import black_box


def numpy_model(
    function: Callable[[np.ndarray], Any], layout: str = "NHWC"
) -> LogitsFn:
    """Returns `x [B, H, W, C] -> logits [B, K]` of a function on the host.

    Attacks that need no gradient (`square`, `spsa`, `hop_skip_jump` ...) take it as any
    other network, also under `jax.jit`; the function is called once per batch of
    queries. How many classes it has is found out by a call with one grey image.

    Args:
      function: of float32 images, NumPy arrays or tensors of PyTorch, to floating
        logits `[B, K]`.
      layout: of the images that it takes, 'NHWC' or 'NCHW'.

    Raises:
      ValueError: for another layout; at the call for what are no logits.
    """
    if layout not in black_box.LAYOUTS:
        known = " or ".join(black_box.LAYOUTS)
        raise ValueError(f"`layout` must be {known}, got {layout!r}.")
    host_fn = black_box.host_function(function, layout)

    @functools.cache
    def count(shape: tuple[int, ...]) -> int:
        return host_fn(np.full((1, *shape), 0.5, np.float32)).shape[1]

    return black_box.called_back(host_fn, count)


def torch_model(module: Any, layout: str = "NCHW") -> LogitsFn:
    """Returns a `torch.nn.Module`, on its device and in its mode, as `numpy_model`."""
    return numpy_model(module, layout)
