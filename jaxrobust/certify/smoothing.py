"""Randomised smoothing: a certificate in L2 that holds with a given probability.

Cohen et al. 2019 (arXiv 1902.02918). The class that a network gives most often to an
image with Gaussian noise does not change within a radius that follows from how often.
"""

import functools
import math
import statistics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from jaxrobust import _checks
from jaxrobust.array_types import Bounds, Images, Key, LogitsFn, Scalar
from jaxrobust.certify._alone import bind_alone, check_logits, is_traced

ABSTAINED = -1
# Copies, which are counted in 32 bits.
_MOST = 10**9
_ON_HOST = (
    "`smooth` decides on the host: it is not for jax.jit, nor has it derivatives."
)


class Smoothed(NamedTuple):
    """Classes `[B]`, -1 where none is certified, and radii `[B]`, 0 there."""

    classes: Int[np.ndarray, "B"]
    radii: Float[np.ndarray, "B"]


def smooth(
    logits_fn: LogitsFn,
    x: Images,
    *,
    key: Key,
    sigma: float,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    draws: int = 100,
    bounds: Bounds = (0.0, 1.0),
) -> Smoothed:
    """Certifies the class of the smoothed network (Cohen et al. 2019, CERTIFY).

    Of `n0` noisy copies the most frequent class is taken; how often it is found among
    `n` others, by the lower bound of Clopper and Pearson, gives the radius
    `sigma * quantile(share)`. The noise is not clipped.

    Args:
      logits_fn: images `[B, H, W, C]` to logits `[B, K]`; around it anything, such as a
        denoiser, `lambda z: logits_fn(denoise(z))`.
      x: images `[B, H, W, C]`.
      key: one, or one per image `[B]`: a result depends on its image's key alone, so
        that a data set can be done in any parts.
      sigma: standard deviation of the noise, in units of the images.
      n0: copies to choose the class.
      n: copies to count it.
      alpha: probability that a radius is wrong.
      draws: noisy copies of all B images at a time.
      bounds: of the images, in whose units `sigma` is; the noise leaves them.

    Returns:
      `(classes, radii)`: int32 `[B]`, -1 for what is not certified, and L2 radii.

    Raises:
      ValueError: for numbers out of range, images outside the bounds, logits that are
        not `[B, K]`, or under `jax.jit`.

    >>> from jaxrobust import certify
    >>> def network(x):  # class 1 where the mean is above .5
    ...     return jnp.stack([0 * x[:, 0], x.mean(1) - 0.5], 1)
    >>> x, key = jnp.full((1, 4), 0.7), jax.random.key(0)
    >>> print(certify.smooth(network, x, key=key, sigma=0.5, n=2000).classes)
    [1]
    """
    if isinstance(x, Tracer):
        raise ValueError(_ON_HOST)
    _checks.check_images(x, flat=True)
    _checks.check_number("sigma", sigma, _checks.Range(0, 1e6, above=True))
    _checks.check_number("alpha", alpha, _checks.Range(0, 0.5, above=True))
    for name, value in (("n0", n0), ("n", n), ("draws", draws)):
        _checks.check_count(name, value, 1)
        _checks.check_number(name, value, _checks.Range(1, _MOST))
    _checks.check_bounds(bounds)
    _checks.check_values(x, bounds)
    keys = _checks.row_keys(key, x.shape[0])
    check_logits(logits_fn, x)
    if is_traced(bind_alone(logits_fn, x)):
        raise ValueError(_ON_HOST)
    # The weights of a Partial are arguments: what was compiled serves others too.
    held = isinstance(logits_fn, jax.tree_util.Partial)
    tally = _of_weights if held else jax.jit(both_counts, static_argnums=(0, 4, 5, 6))
    found = np.asarray(tally(logits_fn, x, keys, sigma, n0, n, draws))
    return certified(found[:, 0], found[:, 1], float(sigma), alpha)


def certified(
    first: Int[np.ndarray, "B C"],
    second: Int[np.ndarray, "B C"],
    sigma: float,
    alpha: float,
) -> Smoothed:
    """Certifies what was counted: the class by the first draws, its share by others.

    The last of the C = K + 1 columns are draws of no class, which are never certified.
    """
    chosen = first[:, :-1].argmax(1)
    hits = second[np.arange(len(chosen)), chosen]
    totals = second.sum(1)
    pairs = zip(hits, totals, strict=True)
    share = np.array([lower_share(int(k), int(n), alpha) for k, n in pairs])
    sure = share > 0.5
    quantile = statistics.NormalDist().inv_cdf
    radii = [sigma * quantile(p) if p > 0.5 else 0.0 for p in share]
    return Smoothed(np.where(sure, chosen, ABSTAINED).astype(np.int32), np.array(radii))


def both_counts(
    logits_fn: LogitsFn,
    x: Images,
    keys: Key,
    sigma: Scalar,
    n0: int,
    n: int,
    draws: int,
) -> Int[jax.Array, "B 2 C"]:
    """Counts the classes of n0 noisy copies and of n others; see `counts`."""
    first, second = jax.vmap(jax.random.split, out_axes=1)(keys)
    found = [
        counts(logits_fn, x, key, sigma, size, draws)
        for key, size in ((first, n0), (second, n))
    ]
    return jnp.stack(found, 1)


_of_weights = jax.jit(both_counts, static_argnums=(4, 5, 6))


def counts(
    logits_fn: LogitsFn, x: Images, keys: Key, sigma: Scalar, n: int, draws: int
) -> Int[jax.Array, "B C"]:
    """Counts the classes of `n` noisy copies of each image, `draws` at a time.

    C = K + 1: logits that are NaN, or infinite at the top, are of no class. Copy i of
    an image has the noise of `fold_in(key, i)`.
    """
    classes = jax.eval_shape(logits_fn, x).shape[1]
    draws = min(draws, n)

    # In half precision noise would have no tails. A network that takes such images is
    # one of the exact images, which rounds them first.
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def noisy(image: jax.Array, key: Key, i: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.fold_in(key, i), image.shape, wide)
        return (image + jnp.asarray(sigma, wide) * noise).astype(image.dtype)

    def some(block: jax.Array, tally: jax.Array) -> jax.Array:
        places = block * draws + jnp.arange(draws)
        copies = jax.vmap(jax.vmap(noisy, (None, None, 0)), (0, 0, None))
        images = copies(x, keys, places).reshape(-1, *x.shape[1:])
        logits = logits_fn(images)
        # NaN is the largest of its row, too.
        sound = jnp.isfinite(jnp.max(logits, -1))
        found = jnp.where(sound, jnp.argmax(logits, -1), classes)
        hits = jax.nn.one_hot(
            found.reshape(len(x), draws), classes + 1, dtype=jnp.int32
        )
        counted = hits * (places < n).astype(jnp.int32)[None, :, None]
        return tally + jnp.sum(counted, 1, dtype=jnp.int32)

    start = jnp.zeros((x.shape[0], classes + 1), jnp.int32)
    return jax.lax.fori_loop(0, -(-n // draws), some, start)


@functools.lru_cache(maxsize=4096)
def lower_share(hits: int, n: int, alpha: float) -> float:
    """Returns the lower bound of Clopper and Pearson (1934), of one side.

    The largest p at which `hits` or more of n have a probability of at most alpha; by
    bisection of the exact sum, from below.
    """
    if hits <= 0:
        return 0.0
    k = np.arange(hits, n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    ways = logs[n] - logs[k] - logs[n - k]
    low, high = 0.0, hits / n
    for _ in range(60):
        p = (low + high) / 2
        rest = np.zeros(len(k)) if p == 1 else (n - k) * math.log1p(-p)
        if np.exp(ways + k * math.log(p) + rest).sum() <= alpha:
            low = p
        else:
            high = p
    return low
