"""The set of inputs: a box, cut with a ball around a point."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.array_types import Norm, Scalar
from jaxrobust.certify._affine import Interval, ulps, without_nan

# Halvings of the range of the multiplier of an L2 ball.
_HALVINGS = 25


@dataclasses.dataclass(frozen=True)
class Region:
    """All x with lower <= x <= upper and `||x - centre|| <= eps` in a norm.

    Without `eps` the box alone. `centre` lies in the box, and the box inside the cube
    of the ball.
    """

    lower: Array
    upper: Array
    centre: Array | None = None
    eps: Array | None = None
    norm: Norm = "linf"

    @property
    def is_box(self) -> bool:
        """Whether a box is all that it is."""
        return self.eps is None or self.norm == "linf"

    @property
    def box(self) -> Interval:
        """Returns the smallest box around it."""
        return without_nan(Interval(self.lower, self.upper))


jax.tree_util.register_dataclass(Region, ["lower", "upper", "centre", "eps"], ["norm"])


def make(
    lower: Array,
    upper: Array,
    centre: Array | None = None,
    eps: Scalar | None = None,
    norm: Norm = "linf",
) -> Region:
    """Makes a region, its box cut to the cube around the ball."""
    if centre is None or eps is None:
        return Region(lower, upper)
    centre = jnp.clip(centre, lower, upper)
    eps = jnp.minimum(jnp.asarray(eps, lower.dtype), _covering(centre, lower, upper))
    # The ball must not lose a point to rounding.
    wider = eps + ulps(lower.dtype) * (jnp.abs(centre) + eps)
    low, high = jnp.maximum(lower, centre - wider), jnp.minimum(upper, centre + wider)
    return Region(low, high, centre, jnp.asarray(eps, lower.dtype), norm)


def _covering(centre: Array, lower: Array, upper: Array) -> Array:
    """Returns a radius of which a ball of any norm is the whole box.

    Larger ones are no other set, and infinity times 0 is no number.
    """
    far = jnp.sum(jnp.maximum(centre - lower, upper - centre))
    return 1.01 * far  # more than rounding may take


def least(forms: Array, region: Region) -> Array:
    """Returns a lower bound of the least value of linear forms on a region.

    Exact in a box and in L1; in L2 as near as the search for a multiplier comes, at
    any of which it is a bound. Less what rounding may take.

    Args:
      forms: coefficients `[R, *shape]`.
      region: of inputs `[*shape]`.

    Returns:
      `[R]`.
    """
    flat = forms.reshape(forms.shape[0], -1)
    low, high = region.lower.reshape(-1), region.upper.reshape(-1)
    size = jnp.abs(flat) @ jnp.maximum(jnp.abs(low), jnp.abs(high))
    slack = ulps(flat.dtype) * size
    if region.is_box:
        centre, reach = (low + high) / 2, (high - low) / 2
        return flat @ centre - jnp.abs(flat) @ reach - slack
    assert region.centre is not None
    assert region.eps is not None
    centre = region.centre.reshape(-1)
    # How far each value may go in the direction in which its form falls.
    room = jnp.where(flat > 0, (centre - low)[None], (high - centre)[None])
    steep = jnp.abs(flat)
    fall = (_fall_l1 if region.norm == "l1" else _fall_l2)(steep, room, region.eps)
    return flat @ centre - fall - slack


def _fall_l1(steep: Array, room: Array, eps: Array) -> Array:
    """Spends eps on the steepest values first, each as far as there is room."""
    order = jnp.argsort(-steep, axis=-1)
    steep, room = (jnp.take_along_axis(v, order, -1) for v in (steep, room))
    before = jnp.cumsum(room, -1) - room
    spent = jnp.clip(eps - before, 0, room)
    # `before` may be rounded upwards: what is lost costs at most the steepest.
    lost = ulps(steep.dtype) * (jnp.minimum(before[:, -1], eps) + eps)
    return jnp.sum(steep * spent, -1) + lost * steep[:, 0]


def _fall_l2(steep: Array, room: Array, eps: Array) -> Array:
    """Bounds max steep . d for 0 <= d <= room, ||d|| <= eps, by its dual.

    For every m > 0 the value is at most max_d steep . d - m (d . d - eps^2), each value
    of d by itself: min(steep / 2m, room). The best m has ||d|| = eps.
    """
    # Of the box alone.
    whole = jnp.sum(steep * room, -1)
    # The fall grows with both scales, which are taken out: squares of forms and radii
    # may be no numbers, and a form of zeros has no direction. What is too small for
    # them is spent as in a box.
    least = 2**24 * float(jnp.finfo(steep.dtype).tiny)
    rooms = room / jnp.where(eps > 0, eps, 1)
    kept = jnp.where(rooms < least, 0, steep)
    largest = lax.stop_gradient(jnp.max(kept, -1))
    scale = jnp.where(largest > 0, largest, 1)
    shares = kept / scale[:, None]
    small = (rooms < least) | (shares < least)
    falls = _fall_in_unit_ball(jnp.where(small, 0, shares), rooms) * scale * eps
    falls = falls * (1 + ulps(steep.dtype))
    falls = falls + jnp.sum(jnp.where(small, steep * room, 0), -1)
    return jnp.minimum(falls, whole)


def _fall_in_unit_ball(steep: Array, room: Array) -> Array:
    """Bounds the same for a radius of 1 and forms whose steepest value is 1, or 0."""
    square = jnp.sum(steep**2, -1)
    flat = square == 0
    length = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, square)))
    high = jnp.maximum(length, 1) / 2

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = jnp.sqrt(low * high)
        d = jnp.minimum(steep / (2 * middle[:, None]), room)
        outside = jnp.sum(d * d, -1) > 1
        return jnp.where(outside, middle, low), jnp.where(outside, high, middle)

    start = lax.stop_gradient((high * 1e-6, high))
    _, m = lax.fori_loop(0, _HALVINGS, halve, start)
    m = lax.stop_gradient(m)
    d = jnp.minimum(steep / (2 * m[:, None]), room)
    dual = jnp.sum(steep * d - m[:, None] * d * d, -1) + m
    return jnp.minimum(dual, length)
