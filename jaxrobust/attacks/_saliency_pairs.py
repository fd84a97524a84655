"""The most salient pair of values, of all pairs, for JSMA."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Numbers of a block of the table of all pairs: 8 MB in float32.
_BLOCK = 1 << 21

Rows = Float[Array, "B d"]


def best_pair(
    a: Rows, c: Rows, free: jax.Array
) -> tuple[Int[Array, " B"], Int[Array, " B"], jax.Array]:
    """Finds the pair p != q of free places with the largest (a_p + a_q)(c_p + c_q).

    Both sums must be above 0. No pair of p is better than p with the largest a and
    the largest c of all; the places are gone through in the order of that bound, a
    block of the table of all pairs at a time, until no bound is above the best pair
    found. So the pair is exact, and one block is usually enough.

    Args:
      a: growth of the target's logit per place, `[B, d]`.
      c: fall of the others, `[B, d]`.
      free: places that may be in a pair, `[B, d]`.

    Returns:
      p, q, and whether there is such a pair, `[B]` each.
    """
    batch, size = a.shape
    a, c = (jnp.where(free, _over_largest(v), -jnp.inf) for v in (a, c))

    def product(rise: jax.Array, fall: jax.Array) -> jax.Array:
        return jnp.maximum(rise, 0) * jnp.maximum(fall, 0)

    def scores(p: Int[Array, "B n"]) -> Float[Array, "B n d"]:
        a_p, c_p = (jnp.take_along_axis(v, p, 1)[:, :, None] for v in (a, c))
        every = product(a_p + a[:, None], c_p + c[:, None])
        return jnp.where(p[:, :, None] != jnp.arange(size)[None, None], every, 0)

    largest_a, largest_c = (jnp.max(v, axis=1, keepdims=True) for v in (a, c))
    bound = product(a + largest_a, c + largest_c)
    order = jnp.argsort(-bound, axis=1)
    bound = jnp.take_along_axis(bound, order, 1)
    width = max(1, min(size, _BLOCK // (batch * size)))

    def go_on(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        k, best, _ = state
        first = jnp.minimum(k, size - 1)
        return (k < size) & jnp.any(jnp.take(bound, first, axis=1) > best)

    def block(state: tuple[jax.Array, jax.Array, jax.Array]):
        k, best, p = state
        first = jnp.minimum(k, size - width)  # the last block overlaps
        places = jax.lax.dynamic_slice_in_dim(order, first, width, 1)
        top = jnp.max(scores(places), axis=2)
        new = jnp.take_along_axis(places, jnp.argmax(top, axis=1)[:, None], 1)[:, 0]
        top = jnp.max(top, axis=1)
        return k + width, jnp.maximum(top, best), jnp.where(top > best, new, p)

    none = jnp.zeros(batch, a.dtype), jnp.zeros(batch, order.dtype)
    _, best, p = jax.lax.while_loop(go_on, block, (jnp.int32(0), *none))
    return p, jnp.argmax(scores(p[:, None])[:, 0], axis=1), best > 0


def _over_largest(rows: Rows) -> Rows:
    """Divides by the largest size, so that no product overflows or vanishes."""
    limit = jnp.finfo(rows.dtype).max / 8
    rows = jnp.clip(jnp.nan_to_num(rows), -limit, limit)
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    return rows / jnp.where(largest > 0, largest, 1)
