"""Defences by preprocessing, as wrappers of a function to logits."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxrobust import _checks, attacks
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Key, Logits, LogitsFn
from jaxrobust.corruptions.jpeg import compressed
from jaxrobust.preprocessing import filters

Gradient = Literal["past", "through"]
Change = Callable[[Images], Images]

_WEIGHT = Range(
    0, float(np.finfo(np.float32).max), above=True, rule="above 0 and finite"
)
_SMALLEST = Range(0, 1, above=True, rule="a share in (0, 1]")
_ENLARGED = Range(1, 4, rule="in [1, 4]")


def jpeg(
    logits_fn: LogitsFn, quality: int = 75, gradient: Gradient = "past"
) -> LogitsFn:
    """Compresses images as JPEG before the network.

    The steps are those of Pillow's encoder and decoder on the 8-bit image, in JAX, for
    colour and grey images. Pillow's cosine transforms are of whole numbers, so that
    coefficients between two steps may be rounded the other way: on 64 test images of
    CIFAR-10, at qualities 10 to 95, 7 to 41 % of the values differ from Pillow 13, by
    .2 to .6 levels in the mean and 19 at most, where JPEG changes 3 to 13 in the mean.

    Args:
      logits_fn: `x -> logits [B, K]`, or of a stochastic one `(x, keys)`.
      quality: 1 to 100.
      gradient: 'past' differentiates the identity in its place, 'through' JPEG itself,
        whose gradient is 0.

    Returns:
      A function like `logits_fn`.

    Raises:
      ValueError, TypeError: for an argument of another kind or out of range; when
        called, for other than 1 or 3 channels, for what is no floating images
        `[B, H, W, C]`, or (outside of `jit`) leaves [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import preprocessing
      >>> flat = lambda x: x.reshape(len(x), -1)[:, :2]
      >>> x = jnp.linspace(0, 1, 64).reshape(1, 8, 8, 1)
      >>> defended = preprocessing.jpeg(flat, quality=10)
      >>> bool(jnp.abs(defended(x) - flat(x)).max() > 0.01)
      True
      >>> float(jax.grad(lambda x: defended(x)[0, 0])(x)[0, 0, 0, 0])
      1.0

    Reference:
      Dziugaite et al. 2016, arXiv 1608.00853; Guo et al., ICLR 2018, arXiv 1711.00117;
      broken in Athalye et al., ICML 2018, arXiv 1802.00420, section 5.3.
    """
    _check_whole("quality", quality, 1, 100)

    return _changed(
        logits_fn, lambda x: compressed(x, quality), gradient, (1, 3), "JPEG"
    )


def bit_depth(
    logits_fn: LogitsFn, bits: int = 3, gradient: Gradient = "past"
) -> LogitsFn:
    """Rounds images to 2^bits levels before the network.

    See `jpeg` for the other arguments; `bits` is 1 to 8.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import preprocessing
      >>> flat = lambda x: x.reshape(len(x), -1)
      >>> x = jnp.array([0.2, 0.6]).reshape(1, 1, 2, 1)
      >>> preprocessing.bit_depth(flat, bits=1)(x).tolist()
      [[0.0, 1.0]]

    Reference:
      Xu, Evans, Qi, Feature squeezing, NDSS 2018, arXiv 1704.01155, section III.A.
    """
    _check_whole("bits", bits, 1, 8)
    levels = 2**bits - 1
    return _changed(logits_fn, lambda x: jnp.round(levels * x) / levels, gradient)


def median(
    logits_fn: LogitsFn, window: int = 3, gradient: Gradient = "past"
) -> LogitsFn:
    """Filters images by their median before the network; see `median_filter`.

    See `jpeg` for the other arguments. Its own gradient (`through`) leads to the pixel
    that is the median alone: try both.

    Reference:
      Xu, Evans, Qi, Feature squeezing, NDSS 2018, arXiv 1704.01155, section III.B.
    """
    _check_whole("window", window, 1, 99)
    return _changed(logits_fn, lambda x: filters.median_filter(x, window), gradient)


def total_variation(
    logits_fn: LogitsFn,
    weight: float = 0.05,
    steps: int = 50,
    gradient: Gradient = "through",
) -> LogitsFn:
    """Lowers the total variation of images before the network; see `smoothed`.

    See `jpeg` for the other arguments. Its gradient goes through all steps.

    Reference:
      Guo et al., Countering adversarial images using input transformations, ICLR 2018,
      arXiv 1711.00117, section 3.3, without its random choice of pixels.
    """
    _checks.check_one_number("weight", weight, _WEIGHT)
    _check_whole("steps", steps, 1, 10_000)
    return _changed(logits_fn, lambda x: filters.smoothed(x, weight, steps), gradient)


def denoise(
    logits_fn: LogitsFn, denoiser: Change, gradient: Gradient = "through"
) -> LogitsFn:
    """Puts a denoiser of yours in front of the network.

    Args:
      logits_fn: see `jpeg`.
      denoiser: images to images of the same shape.
      gradient: 'through' the denoiser, or 'past' it, as through the identity.
    """
    _checks.check_function(denoiser, "denoiser", "images")

    def change(x: Images) -> Images:
        found = denoiser(x)
        if jnp.shape(found) != x.shape:
            raise ValueError(
                f"`denoiser` must return images of shape {x.shape}, as it gets, got "
                f"{jnp.shape(found)}."
            )
        return found

    return _changed(logits_fn, change, gradient)


def resize_and_pad(
    logits_fn: LogitsFn,
    smallest: float = 0.9,
    enlarged: float = 1.0,
    stochastic: bool = False,
) -> LogitsFn:
    """Resizes images to a random size, on black, at a random place.

    The network gets squares of `enlarged` times the side; the image in it has, at even
    odds, each size from `smallest` times that up to all of it, by nearest pixels. For
    ImageNet the paper has 299 to 330 pixels in 331: enlarged=331/299, smallest=299/331.

    Args:
      logits_fn: `x -> logits [B, K]`, for images of the enlarged size.
      smallest: the least side of the image, as a share of the padded one.
      enlarged: the padded side over that of the image, at least 1.
      stochastic: `logits_fn` takes keys as well.

    Returns:
      `(x, keys [B]) -> logits`, for attacks with `stochastic=True, eot_samples=n`; of
      one key, row i takes `fold_in(key, i)`.

    Raises:
      ValueError, TypeError: for a share out of range; when called, as `jpeg`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import preprocessing
      >>> defended = preprocessing.resize_and_pad(lambda x: x.sum((1, 2)), smallest=0.5)
      >>> x, keys = jnp.ones((3, 8, 8, 1)), jax.random.split(jax.random.key(0), 3)
      >>> sums = defended(x, keys)
      >>> bool(((sums >= 16) & (sums <= 64)).all())
      True

    Reference:
      Xie et al., Mitigating adversarial effects through randomization, ICLR 2018,
      arXiv 1711.01991; attacked by the mean over draws in Athalye et al. 2018,
      arXiv 1802.00420, section 5.3.
    """
    _checks.check_function(logits_fn)
    _checks.check_one_number("smallest", smallest, _SMALLEST)
    _checks.check_one_number("enlarged", enlarged, _ENLARGED)

    def change(image: Float[Array, "H W C"], key: Key) -> Float[Array, "H W C"]:
        return _resized(image, key, smallest, enlarged)

    inner = attacks.with_transform(logits_fn, change, stochastic=stochastic)

    def defended(x: Images, keys: Key) -> Logits:
        _check_images(x)
        return inner(x, _checks.row_keys(keys, x.shape[0]))

    return defended


def _resized(
    image: Float[Array, "H W C"], key: Key, smallest: float, enlarged: float
) -> Float[Array, "H W C"]:
    share, top, left = jax.random.split(key, 3)
    sides = [round(enlarged * side) for side in image.shape[:2]]
    drawn = jax.random.uniform(share)

    def places(side: int, padded: int, place: Key) -> tuple[Array, Array]:
        least = math.ceil(smallest * padded - 1e-6)  # 29 / 32 * 32 may be above 29
        size = least + jnp.floor(drawn * (padded - least + 1)).astype(int)
        size = jnp.minimum(size, padded)
        corner = jax.random.randint(place, (), 0, padded - size + 1)
        at = jnp.arange(padded) - corner
        nearest = ((2 * at + 1) * side // (2 * size)).astype(int)
        return jnp.clip(nearest, 0, side - 1), (at >= 0) & (at < size)

    pairs = zip(image.shape[:2], sides, (top, left), strict=True)
    (rows, high), (columns, wide) = (places(*pair) for pair in pairs)
    inside = (high[:, None] & wide[None, :])[..., None]
    return jnp.where(inside, image[rows][:, columns], 0)


def _changed(
    logits_fn: LogitsFn,
    change: Change,
    gradient: Gradient,
    channels: Sequence[int] = (),
    who: str = "",
) -> LogitsFn:
    """Puts a change of images in front, differentiated as asked.

    `who` needs so many `channels`; by default any will do.
    """
    _checks.check_function(logits_fn)
    _checks.check_choice("gradient", gradient, get_args(Gradient))
    own = attacks.straight_through(change) if gradient == "past" else change

    def defended(x: Images, *keys: Key) -> Logits:
        _check_images(x, channels, who)
        return logits_fn(own(x), *keys)

    return defended


def _check_images(x: Any, channels: Sequence[int] = (), who: str = "") -> None:
    """Raises for what is no images in [0, 1]; traced ones may have any values."""
    _checks.check_images(x, channels=channels, who=who)
    if not isinstance(x, Tracer):
        _checks.check_values(x)


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ValueError(
            f"`{name}` must be a whole number from {least} to {most}, got {value!r}."
        )
