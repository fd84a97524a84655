"""Windows of the square attack: how large, where, and what goes into them.

A window's pattern is a function of the offsets of rows and columns from its corner,
so that windows of any size and place are data, not shapes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrobust.array_types import Images, Key, Norm

# Queries after which the share of the image that a window covers is halved.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_DECAY: dict[Norm, int] = {"l2": 2, "l1": 4}

PerRow = Int[Array, " B"]


class Window(NamedTuple):
    """One square per row: its corner and the length of its sides, `[B]` each."""

    top: PerRow
    left: PerRow
    size: PerRow


def share(query: int, p_init: float, rescale_to: int | None = None) -> float:
    """Returns which share of the image a window covers at a query, counted from 0.

    With `rescale_to` the schedule, made for 10,000 queries, is squeezed into that many.
    """
    if rescale_to is not None:
        query = int(query / rescale_to * 10_000)
    return p_init / 2 ** sum(query > halved for halved in _HALVED_AFTER)


def side(part: float, shape: tuple[int, ...], norm: Norm) -> int:
    """Returns the side of a window that covers `part` of an image `(H, W)`.

    In L2 and L1 it is odd and at least 3, where the image allows it.
    """
    size = round((part * shape[0] * shape[1]) ** 0.5)
    if norm == "linf":
        return min(max(size, 1), *shape)
    size = max(size, 3)
    return min(size + 1 - size % 2, *shape)


def sides(query: int | jax.Array, schedule: list[int], batch: int) -> Int[Array, " B"]:
    """Returns the sides at a query, one number or one per row, of those of all."""
    changes = [i for i, s in enumerate(schedule) if not i or schedule[i - 1] != s]
    query = jnp.asarray(query).reshape(-1, 1)
    phase = jnp.sum(query >= jnp.array(changes)[None], axis=1) - 1
    values = jnp.asarray([schedule[i] for i in changes], jnp.int32)
    return jnp.broadcast_to(values[phase], (batch,))


def place(draws: Float[Array, "B 2"], size: PerRow, shape: tuple[int, ...]) -> Window:
    """Puts windows anywhere inside the image by two numbers in [0, 1) each."""
    free = jnp.array(shape)[None] - size[:, None]
    corner = jnp.floor(draws * (free + 1)).astype(jnp.int32)
    corner = jnp.minimum(corner, free)
    return Window(corner[:, 0], corner[:, 1], size)


def inside(window: Window, shape: tuple[int, ...]) -> Bool[Array, "B H W 1"]:
    """Returns which pixels lie in each row's window."""
    down, across = _offsets(window, shape)
    size = window.size[:, None]
    rows, columns = ((d >= 0) & (d < size) for d in (down, across))
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def cone(
    distance: Int[Array, "B d"], reach: PerRow, longest: int, norm: Norm
) -> Float[Array, "B d"]:
    """Returns sum_{k = distance}^{reach - 1} 1 / (k + 1)^n: squares piled up."""
    terms = 1.0 / np.arange(1, longest + 2) ** _DECAY[norm]
    tails = jnp.asarray(np.append(np.cumsum(terms[::-1])[::-1], 0.0), jnp.float32)
    reach = reach[:, None]
    return tails[jnp.minimum(distance, reach)] - tails[reach]


def pattern(
    window: Window, upright: Bool[Array, " B"], shape: tuple[int, ...], norm: Norm
) -> Float[Array, "B H W 1"]:
    """Returns each window's pattern, of norm 1, and 0 around it.

    Two rectangles, one above the other (beside it where not `upright`), the second
    negative. Piled squares depend on the larger of the offsets from the middle, and
    fall with it: they are the lesser of a function of the row and one of the column.
    """
    whole, upright = window.size[:, None], upright[:, None]
    half, reach = whole // 2, window.size // 2 + 1

    def along(offset: Int[Array, "B d"], split: Bool[Array, "B 1"]):
        second = offset >= half
        of_half = jnp.where(second, half + (whole - half) // 2, half // 2)
        middle = jnp.where(split, of_half, half)
        pile = cone(jnp.abs(offset - middle), reach, max(shape), norm)
        within = (offset >= 0) & (offset < whole)
        return jnp.where(within, pile, 0), second & split

    down, across = _offsets(window, shape)
    (rows, lower), (columns, right) = along(down, upright), along(across, ~upright)
    pile = jnp.minimum(rows[:, :, None], columns[:, None, :])
    second = lower[:, :, None] | right[:, None, :]
    unit = jnp.zeros_like(pile)
    for part, sign in ((~second, 1.0), (second, -1.0)):
        length = _length(jnp.where(part, pile, 0), norm)
        unit = jnp.where(part, sign * pile / jnp.where(length > 0, length, 1), unit)
    return (unit / _length(unit, norm))[..., None]


def stripes(keys: Key, x: Images) -> Images:
    """Draws a sign per row, column and channel."""
    shape = (1, *x.shape[2:])
    return jnp.broadcast_to(_signs(keys, shape), x.shape).astype(x.dtype)


def tiles(keys: Key, x: Images, norm: Norm) -> Images:
    """Draws patterns side by side, five along the shorter side, of random signs."""
    height, width, channels = x.shape[1:]
    size = max(min(height, width) // 5, 1)
    down, across = height // size, width // size
    window = Window(*jnp.array([[0, 0], [0, 0], [size, size]]))
    both = pattern(window, jnp.array([True, False]), (size, size), norm)
    upright, lying = jnp.tile(both, (1, down, across, 1))[:, None]

    def grow(grid: jax.Array) -> jax.Array:
        return jnp.repeat(jnp.repeat(grid, size, axis=1), size, axis=2)

    signs = grow(_signs(keys, (down, across, channels + 1)))
    tiled = signs[..., :channels] * jnp.where(signs[..., channels:] > 0, upright, lying)
    edges = [
        ((full - used) // 2, full - used - (full - used) // 2)
        for full, used in ((height, down * size), (width, across * size))
    ]
    return jnp.pad(tiled, ((0, 0), *edges, (0, 0))).astype(x.dtype)


def _signs(keys: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
    heads = jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, shape))(keys)
    return jnp.where(heads, 1.0, -1.0)


def _offsets(
    window: Window, shape: tuple[int, ...]
) -> tuple[Int[Array, "B H"], Int[Array, "B W"]]:
    down = jnp.arange(shape[0])[None] - window.top[:, None]
    return down, jnp.arange(shape[1])[None] - window.left[:, None]


def _length(values: jax.Array, norm: Norm) -> jax.Array:
    size = jnp.abs(values) if norm == "l1" else values * values
    total = jnp.sum(size, axis=(1, 2), keepdims=True)
    return total if norm == "l1" else jnp.sqrt(total)
