"""What a decision-based attack asks near a boundary, and makes of the answers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, Norm, PerExample
from jaxrobust.attacks._method import choose, like


class Estimate(NamedTuple):
    """Sums over the queries of an estimate; a misclassified one votes 1, others -1.

    Once complete, `weighted` holds the direction of the step.
    """

    votes: PerExample
    total: Images
    weighted: Images


def draw(keys: Key, x: Images) -> Images:
    """Draws numbers between -1 and 1 of the shape of `x`, with a key per row."""
    least = -1 + float(jnp.finfo(x.dtype).epsneg)  # whose normal draw is finite
    return jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], x.dtype, least, 1.0))(
        keys
    )


def unit(draws: Images, norm: Norm) -> Images:
    """Turns draws into directions of length 1: normal ones in L2, uniform in Linf."""
    direction = jax.lax.erf_inv(draws) if norm == "l2" else draws
    return _over_length(direction)


def _over_length(v: Images) -> Images:
    length = threat.distance(v, jnp.zeros_like(v), norm="l2")
    return threat.safe_divide(v, like(length, v))


def in_blocks(draws: Images, tries: Int[Array, " B"]) -> Images:
    """Noise of single pixels at first, then of blocks of 2, 4, 8 ..., and again."""
    if draws.ndim != 4:
        return draws
    height, width = draws.shape[1:3]
    side = jnp.left_shift(1, tries % ((max(height, width) - 1).bit_length() + 1))
    for axis, size in ((1, height), (2, width)):
        corner = jnp.arange(size)[None] // side[:, None] * side[:, None]
        draws = jnp.take_along_axis(
            draws, jnp.expand_dims(corner, (3 - axis, 3)), axis=axis
        )
    return draws


def shrunk(
    point: Images, x: Images, length: PerExample, to: PerExample, norm: Norm
) -> Images:
    """Moves a point at `length` from `x` nearer: blended in L2, clipped in Linf."""
    delta, to = point - x, like(to, x)
    if norm == "linf":
        return x + jnp.clip(delta, -to, to)
    return x + delta * threat.safe_divide(to, like(length, x))


def voted(
    sums: Estimate, probe: Images, fooled: Bool[Array, " B"], rows: Bool[Array, " B"]
) -> Estimate:
    """Takes a probe into the sums of the rows that estimate."""
    vote = jnp.where(fooled, 1, -1).astype(probe.dtype)
    added = Estimate(vote, probe, like(vote, probe) * probe)
    return choose(rows, jax.tree.map(jnp.add, sums, added), sums)


def direction(sums: Estimate, count: Int[Array, " B"], norm: Norm) -> Images:
    """The estimated normal, votes taken from their mean; by its sign in Linf."""
    mean = sums.votes / count.astype(sums.votes.dtype)
    centred = sums.weighted - like(mean, sums.total) * sums.total
    # Where all vote alike nothing is left: then towards (or away from) all of them.
    alike = like(jnp.abs(sums.votes) == count, sums.total)
    v = jnp.where(alike, sums.weighted, centred)
    return jnp.sign(v) if norm == "linf" else _over_length(v)
