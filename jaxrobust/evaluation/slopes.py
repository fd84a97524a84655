"""Whether a gradient is the network's: it has to tell what a small step changes.

The straight test of a gradient is a finite difference. A gradient that is another
one's, of a rounded or smoothed part, or of half the network explains little of how the
log-odds change between two near points; a true one explains nearly all of it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxrobust import threat
from jaxrobust.analysis import masking
from jaxrobust.analysis.logits import log_odds
from jaxrobust.array_types import Bounds, Images, Key, Labels, Norm
from jaxrobust.evaluation import verify
from jaxrobust.evaluation.logits import leads, rounding

PROBE = 1e-3  # of the width of the bounds: below half an 8-bit level
SHARE = 0.1  # of the radius
DIRECTIONS = 8
CLEAR = 2.0  # times the rounding of logits: a change that is less is left out
LOW, LOW_SHARE = 0.9, 0.1  # less told than that, of more images: perhaps ties
OFF_TIES = 5.0  # times the longer step
WALK = 10  # steps of a short attack, whose gradients have to be right as well
WALK_STEP = 0.25  # of the radius
_LEAST = -9.0  # a gradient ten times wrong and more is simply wrong
_STREAM = 0x510BE5

HostImages = Float[np.ndarray, "N H W C"]


class Slopes(NamedTuple):
    """How well gradients tell small changes of N images, at three points for each.

    These are the clean image, a random point of the ball and where a short attack from
    there ends. What cannot be told is NaN.

    Attributes:
      explained: of the change of the log-odds the share that the gradient tells, 1 -
        sum (found - told)^2 / sum found^2 over directions, at two distances; NaN where
        the change is not clear of rounding.
      rises: whether the log-odds rise with a step of `PROBE` along the sign of their
        gradient.
      zero: whether the gradient of the log-odds is exactly 0.
      changed: whether a random step of `PROBE` changes the prediction of the clean
        image, where that is clear of rounding and of steps in half precision.
    """

    explained: Float[np.ndarray, "3 2 N"]
    rises: Float[np.ndarray, "3 N"]
    zero: Bool[np.ndarray, "3 N"]
    changed: Bool[np.ndarray, "N"]


def reaches(
    eps: float, norm: Norm, size: int, bounds: Bounds, resolution: float
) -> tuple[float, float]:
    """Returns by how much each number of an image moves.

    That is `PROBE`, and what takes an image of `size` numbers to a tenth of the radius;
    no less than `resolution` (of the float type) can tell, no more than the radius.
    """
    width = bounds[1] - bounds[0]
    parts = threat.covering_radius(norm, size, (0.0, 1.0))
    least = 8 * resolution * width if resolution > 1e-5 else 0.0
    most = min(max(eps / parts, PROBE * width), width / 4)
    near, far = PROBE * width, SHARE * eps / parts
    return min(max(near, least), most), min(max(far, least), most)


def measure(
    forward: masking.Forward,
    slope: masking.Gradient,
    x: Images,
    y: Labels,
    *,
    keys: Key,
    ball: verify.Ball,
    resolution: float,
    directions: int = DIRECTIONS,
) -> Slopes:
    """Compares gradients of the log-odds with central finite differences of them.

    Takes `WALK` + 3 gradients and 12 * `directions` + 3 forward passes per image; at
    points where much is not told a second time, off ties of pixels (`_off_ties`).
    Directions are random signs, of which every number of an image is a part.

    Args:
      forward: images to logits.
      slope: images and labels to the input gradient of the log-odds and the logits.
      x: images `[N, H, W, C]` inside `bounds`.
      y: labels `[N]`.
      keys: one per image, `[N]`.
      ball: the threat; it has a radius.
      resolution: of the coarsest float type that the network computes with, see
        `logits`.
      directions: random directions per point and distance.
    """
    eps, bounds = ball.eps, ball.bounds
    assert eps is not None
    pair = reaches(eps, ball.norm, x[0].size, bounds, resolution)
    labels = np.asarray(y)
    explained, rises = np.full((3, 2, len(x)), np.nan), np.full((3, len(x)), np.nan)
    zero, changed = np.zeros((3, len(x)), bool), np.zeros(len(x), bool)
    points = _points(slope, x, y, keys, eps, norm=ball.norm, bounds=bounds)
    width, ahead = bounds[1] - bounds[0], _log_odds_of(forward, labels)

    def compare(place: int, base: HostImages) -> tuple[Any, ...]:
        """Gradient and logits at `base`, and there and near by what is explained."""
        gradient, logits = slope(jnp.asarray(base), y)
        logits = np.asarray(logits)
        noise = rounding(logits, labels, resolution)
        shares, flips = [], []
        for far, reach in enumerate(pair):
            found, told, flipped = [], [], np.zeros(len(x), bool)
            for number in range(directions):
                stream = (place * 2 + far) * directions + number
                ends, change = _step(base, gradient, keys, stream, reach)
                (one, first), (other, second) = map(ahead, ends)
                found.append(one - other)
                told.append(change)
                flipped |= (first != second) | (first != logits.argmax(-1))
            shares.append(share(np.stack(found), np.stack(told), noise))
            flips.append(flipped)
        return gradient, logits, noise, np.stack(shares), flips[0]

    for place, start in enumerate(points):
        # Away from the bounds by the longer step: both ends of every step are inside.
        inner = bounds[0] + max(pair), bounds[1] - max(pair)
        base = np.asarray(jnp.clip(start, *inner))
        gradient, logits, noise, explained[place], flips = compare(place, base)
        zero[place] = np.asarray(masking.gradient_health(gradient).zero)
        along = np.asarray(jnp.nan_to_num(jnp.sign(gradient)))
        after = ahead(base + np.asarray(pair[0] * along, base.dtype))[0]
        steep = pair[0] * np.abs(np.asarray(gradient, np.float64)).sum((1, 2, 3))
        known = np.isfinite(steep) & (steep > CLEAR * noise)
        with np.errstate(invalid="ignore"):
            rises[place, known] = (after > log_odds(logits, labels))[known]
        if place == 0 and pair[0] <= PROBE * width:
            changed = flips & (leads(logits, logits) > 2 * CLEAR * noise)
        if _is_low(explained[place]):
            off_ties = _off_ties(base, keys, _STREAM - 1 - place, max(pair), bounds)
            explained[place] = np.fmax(explained[place], compare(place, off_ties)[3])
    return Slopes(explained, rises, zero, changed)


def _log_odds_of(forward: masking.Forward, labels: np.ndarray) -> Any:
    """Returns what gives log-odds and prediction of images, on the host."""

    def ahead(points: HostImages) -> tuple[Float[np.ndarray, "N"], np.ndarray]:
        found = np.asarray(forward(jnp.asarray(points)))
        with np.errstate(invalid="ignore"):  # NaN is no number, and counts as none
            return log_odds(found, labels), found.argmax(-1)

    return ahead


def _is_low(explained: Float[np.ndarray, "2 N"]) -> bool:
    """Says whether for too many images some change was not told."""
    return float((explained < LOW).any(0).mean()) > LOW_SHARE


def _off_ties(
    base: HostImages, keys: Key, stream: int, reach: float, bounds: Bounds
) -> HostImages:
    """Returns near points where no two pixels are equal.

    Where pixels tie, as those of a black background do, the network may have a kink
    that is its own: a median or a maximum over a window has. No gradient tells what
    happens there, and it is not wrong. Somewhat off, a true one tells it.
    """
    spread = min(OFF_TIES * reach, (bounds[1] - bounds[0]) / 2 - 2 * reach)
    inside = reach + max(spread, 0.0)
    middle = jnp.clip(base, bounds[0] + inside, bounds[1] - inside)
    draws = [one.uniform(-1, 1, base.shape[1:]) for one in _generators(keys, stream)]
    return np.asarray(middle) + np.asarray(
        max(spread, 0.0) * np.stack(draws), base.dtype
    )


def share(
    found: Float[np.ndarray, "M N"],
    told: Float[np.ndarray, "M N"],
    noise: Float[np.ndarray, "N"],
) -> Float[np.ndarray, "N"]:
    """Returns which share of the changes `found` is `told`, per image.

    As `Slopes.explained`, without what rounding may do. It is negative where the
    gradient tells of changes that are not there.
    """
    size, guess = (np.sqrt(np.mean(np.square(part), 0)) for part in (found, told))
    missed = np.mean(np.square(found - told), 0) - np.square(noise)
    floor = np.maximum(np.square(size), np.square(noise) + 1e-300)
    clear = (np.maximum(size, guess) > CLEAR * noise) & np.isfinite(missed)
    told_share = np.maximum(1 - np.maximum(missed, 0) / floor, _LEAST)
    return np.where(clear, told_share, np.nan)


def _points(
    slope: masking.Gradient, x: Images, y: Labels, keys: Key, eps: float, **ball: Any
) -> tuple[Images, Images, Images]:
    """Returns the images, random points of the balls, and where attacks go from there.

    They follow the gradient of the log-odds for `WALK` steps, where it is finite.
    """
    points = sampled = _sample(x, keys, eps=eps, **ball)
    for _ in range(WALK):
        gradient = jnp.nan_to_num(slope(points, y)[0], posinf=0.0, neginf=0.0)
        points = masking.step_in_ball(points, gradient, x, WALK_STEP * eps, eps, **ball)
    return x, sampled, points


@functools.partial(jax.jit, static_argnames=("norm", "bounds"))
def _sample(x: Images, keys: Key, **ball: Any) -> Images:
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _STREAM)
    return threat.sample(x, key=keys, **ball)


def _step(
    base: HostImages, gradient: Images, keys: Key, stream: int, reach: float
) -> tuple[tuple[HostImages, HostImages], Float[np.ndarray, "N"]]:
    """Returns both ends of a step in a random direction, and the change told."""
    signs = [
        2 * draws.integers(0, 2, base.shape[1:]) - 1
        for draws in _generators(keys, _STREAM + 1 + stream)
    ]
    step = np.asarray(reach * np.stack(signs), base.dtype)
    one, other = base + step, base - step
    change = np.asarray(one - other, np.float64) * np.asarray(gradient, np.float64)
    return (one, other), change.sum(tuple(range(1, base.ndim)))


def _generators(keys: Key, stream: int) -> list[np.random.Generator]:
    """Returns a generator per key. NumPy's: on the host nothing has to be compiled."""
    words = np.asarray(jax.random.key_data(keys))
    return [np.random.default_rng([stream, *row]) for row in words.tolist()]
