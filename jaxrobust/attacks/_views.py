"""Changes of images before the model sees them, so that attacks fool others too."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.array_types import Images
from jaxrobust.attacks._ascent import View
from jaxrobust.attacks._method import Count
from jaxrobust.attacks._objective import Keys, Problem, fold

_MIXED_STREAM = 0x6D6978
_RESIZED_STREAM = 0x726573


@dataclasses.dataclass(frozen=True)
class Scaled(View):
    """Copies over 1, 2, 4 ..., from the lower bound up (Lin et al. 2020)."""

    scales: int

    @property
    def copies(self) -> int:
        """One for each scale."""
        return self.scales

    def __call__(self, problem: Problem, x: Images, keys: Keys, copy: Count) -> Images:
        """Divides by 2^copy."""
        # A table, since a power of a traced number may be off by a rounding.
        factor = jnp.take(
            jnp.asarray(np.ldexp(1.0, -np.arange(self.scales)), x.dtype), copy
        )
        low = problem.bounds[0]
        return low + factor * (x - low)


@dataclasses.dataclass(frozen=True)
class Mixed(View):
    """Copies with a share of another image (Wang et al. 2021, equation 6)."""

    random = "the images that are mixed in"

    count: int
    weight: float

    @property
    def copies(self) -> int:
        """One for each image that is mixed in."""
        return self.count

    def __call__(self, problem: Problem, x: Images, keys: Keys, copy: Count) -> Images:
        """Adds one of `problem.others`, or the image itself, mirrored and rolled."""
        drawn, pool = fold(keys, _MIXED_STREAM, copy), problem.others
        if pool is None:
            other = jax.vmap(_rolled)(jax.lax.stop_gradient(x), drawn)
        else:
            pick = functools.partial(jax.random.randint, shape=(), minval=0)
            chosen = jax.vmap(lambda key: pick(key, maxval=len(pool)))(drawn)
            other = jnp.take(pool, chosen, axis=0).astype(x.dtype)
        return x + self.weight * (other - problem.bounds[0])


def _rolled(image: jax.Array, key: jax.Array) -> jax.Array:
    """An image that is none of its class's: mirrored, and rolled by a random way."""
    axes = tuple(range(max(image.ndim - 1, 1)))
    size = jnp.array([image.shape[axis] for axis in axes])
    way = jax.random.randint(key, (len(axes),), 0, size)
    return jnp.roll(jnp.flip(image, axes), way, axes)


@dataclasses.dataclass(frozen=True)
class Resized(View):
    """A smaller image at a random place (Xie et al. 2019, section 3.3).

    The size is drawn from `least` times that of the image up to a pixel less than that,
    bilinear; the rest is at the lower bound, as the padding of [0, 1] is black.
    """

    random = "the size of the images"

    least: float
    share: float

    def __call__(self, problem: Problem, x: Images, keys: Keys, copy: Count) -> Images:
        """Shrinks a `share` of the images."""
        if x.ndim != 4:
            raise ValueError(
                f"`resize` needs images [B, H, W, C], got shape {x.shape}: leave it 1."
            )
        low = problem.bounds[0]
        return low + jax.vmap(self._one)(x - low, fold(keys, _RESIZED_STREAM, copy))

    def _one(self, image: jax.Array, key: jax.Array) -> jax.Array:
        high, wide, _ = image.shape
        least = max(1, int(self.least * high))
        size, top, left, coin = jax.random.split(key, 4)
        rows = jax.random.randint(size, (), least, max(high, least + 1))
        columns = jnp.maximum(rows * wide // high, 1)
        place = jnp.stack([
            jax.random.randint(top, (), 0, high - rows + 1),
            jax.random.randint(left, (), 0, wide - columns + 1),
        ])  # fmt: skip
        scale = jnp.stack([rows / high, columns / wide]).astype(image.dtype)
        small = jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, place.astype(image.dtype), "linear",
            antialias=False,
        )  # fmt: skip
        return jnp.where(jax.random.uniform(coin) < self.share, small, image)


@dataclasses.dataclass(frozen=True)
class Views(View):
    """Several, one after the other: every copy of one for every copy of the next."""

    parts: tuple[View, ...]

    @property
    def copies(self) -> int:
        """Their product."""
        return int(np.prod([part.copies for part in self.parts]))

    @property
    def needs_key(self) -> str | None:
        """What the first of them that draws says."""
        return next((part.random for part in self.parts if part.random), None)

    def __call__(self, problem: Problem, x: Images, keys: Keys, copy: Count) -> Images:
        """Makes the changes; one of a single copy draws anew for each."""
        left = jnp.asarray(copy)
        for part in self.parts:
            own = copy if part.copies == 1 else left % part.copies
            left = left // part.copies
            x = part(problem, x, keys, own)
        return x
