"""Pooling as torch's, from slices.

XLA's own max pool has a gradient (`select_and_scatter`) that runs five to fifteen times
slower on a CPU, inside loops above all; slices and selections have none of that.
"""

import functools

import jax.numpy as jnp
from jax import lax

from jaxrobust.models.layers import Features


def max_pool(
    x: Features, window: int, strides: int | None = None, padding: int = 0
) -> Features:
    """Takes the maximum of square windows; rows that fill no window are left out.

    Where a maximum is attained twice, the gradient goes to the first place in reading
    order, as torch's does; NaN spreads. `strides` are `window` by default, `padding` is
    minus infinity on each side. ValueError if no window fits.
    """
    strides = strides or window
    if padding:
        margin = (padding, padding, 0)
        low = jnp.asarray(-jnp.inf, x.dtype)
        x = lax.pad(x, low, [(0, 0, 0), margin, margin, (0, 0, 0)])
    _check_window(x, window)

    def larger(best: Features, other: Features) -> Features:
        # Strictly, so that the first place keeps a tie.
        return jnp.where((other > best) | jnp.isnan(other), other, best)

    return functools.reduce(larger, _shifts(x, window, strides))


def avg_pool(x: Features, window: int) -> Features:
    """Averages square windows side by side; as `max_pool` where they do not fit."""
    _check_window(x, window)
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[:, : rows * window, : columns * window]
    return x.reshape(batch, rows, window, columns, window, channels).mean((2, 4))


def adaptive_avg_pool(x: Features, size: int) -> Features:
    """Averages `[B, H, W, C]` to `[B, size, size, C]`, as `nn.AdaptiveAvgPool2d`.

    Cell i covers the rows from floor(i H / size) to ceil((i + 1) H / size): cells
    overlap where `size` does not divide H, and repeat where H is smaller.
    """
    for axis in (1, 2):
        extent = x.shape[axis]
        if extent == size:
            continue
        cells = [
            lax.slice_in_dim(
                x, i * extent // size, -(-(i + 1) * extent // size), axis=axis
            ).mean(axis)
            for i in range(size)
        ]
        x = jnp.stack(cells, axis)
    return x


def _shifts(x: Features, window: int, strides: int) -> list[Features]:
    """Returns, for each place of a window, the entries of all windows there."""
    spans = [(size - window) // strides * strides + 1 for size in x.shape[1:3]]
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (x.shape[0], i + spans[0], j + spans[1], x.shape[3]),
            (1, strides, strides, 1),
        )
        for i in range(window)
        for j in range(window)
    ]


def _check_window(x: Features, window: int) -> None:
    if min(x.shape[1:3]) < window:
        raise ValueError(
            f"a {window}x{window} window does not fit in features of shape {x.shape}: "
            "the images are too small for this network."
        )
