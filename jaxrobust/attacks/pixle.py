"""Pixle: pixels of a patch are copied to other places, from logits alone."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._checks import check_images
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count
from jaxrobust.attacks._objective import Keys, Problem, fold
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares
from jaxrobust.attacks._search import Carry, Search

_STREAM = 0x70786C


@dataclasses.dataclass(frozen=True)
class Pixle(Search):
    """Pixle without its arrays; a step is a query."""

    norms = ("l0_pixels",)
    random = "Pixle"

    least: int = 2
    most: int = 10

    def first(self, problem: Problem, keys: Keys, r: Count) -> tuple[Images, None]:
        """Starts at the image."""
        return problem.x, None

    def propose(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Any:
        """Copies the pixels of a patch of the image to random places."""
        x, (height, width) = problem.x, problem.x.shape[1:3]
        drawn = fold(keys, _STREAM, i)
        draw = jax.vmap(lambda key: jax.random.uniform(key, (4,), jnp.float32))
        corner, size = jnp.split(draw(fold(drawn, 0)), 2, axis=1)
        shape = jnp.asarray([[height, width]])
        corner = jnp.floor(corner * shape).astype(jnp.int32)
        size = self.least + jnp.floor(size * (self.most - self.least + 1))
        end = corner + size.astype(jnp.int32)
        row, column = np.indices((height, width)).reshape(2, 1, -1)
        inside = (row >= corner[:, :1]) & (row < end[:, :1])
        inside = inside & (column >= corner[:, 1:]) & (column < end[:, 1:])
        # A random place for every pixel: those of the patch are copied to theirs.
        places = height * width
        mixed = jax.vmap(lambda key: jax.random.permutation(key, places))
        source = mixed(fold(drawn, 1))  # where the pixel at each place comes from
        copied = jnp.take_along_axis(inside, source, axis=1)[:, :, None]
        pixels, best = (v.reshape(len(x), places, -1) for v in (x, carry.x))
        moved = jnp.take_along_axis(pixels, source[:, :, None], axis=1)
        point = jnp.where(copied, moved, best).reshape(x.shape)
        return problem.project(point), None


@shares(LossOptions, loss="margin", norm="l0_pixels")
def pixle(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    queries: int = 200,
    least: PositiveInt = 2,
    most: PositiveInt = 10,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """Pixle (Pomponi et al. 2022): pixels copied to other places, from logits.

    Each query copies the pixels of a random patch of the image to random places; the
    change stays if the loss is higher or the class wrong, and changes add up. A row
    that is misclassified stays as it is. No more than `eps` pixels change (ours, by
    projection): the attack itself bounds nothing. The authors' first variant takes the
    best of ten changes before the next ten; this is their other one, that takes each.
    Places are drawn at random, as by the default of their code.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: 9 * jnp.stack([x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]], axis=1)
    >>> x = jnp.zeros((1, 3, 3, 1)).at[0, 0, 0, 0].set(1)
    >>> y, key = jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.pixle(logits_fn, x, y, key=key, eps=1)
    >>> jnp.argwhere(x_adv != x).tolist()
    [[0, 0, 0, 0]]

    Args:
      eps: how many pixels may change, rounded down: a number, or one per example `[B]`;
        may be traced. Infinite: any number, as in the paper.
      queries: model calls after the image's own, at least 0; static: 20 times 10 in the
        authors' code.
      least: pixels of the side of the smallest patch.
      most: pixels of the side of the largest one, at least `least`.
      norm: 'l0_pixels'; the attack has no other.

    Reference:
      Pomponi, Scardapane, Uncini: Pixle: a fast and effective black-box attack based
      on rearranging pixels, IJCNN 2022, arXiv 2202.02236, algorithm 2.
    """
    check_images(x)
    if most < least:
        raise ValueError(f"`most` must be at least `least` = {least}, got {most}.")
    return iterate(
        Pixle(queries, restarts, least=least, most=most),
        logits_fn,
        x,
        y,
        eps,
        **options,
    )
