"""Which class an attack ends in, by its rank in the clean prediction.

Li et al., AAAI 2021, arXiv 2012.07688, figure 1: as the radius grows from one grid
value to the next, the attacks that newly succeed, and the shares of them that end in
the 2nd, 3rd, 4th and 5th most probable class of the clean image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrobust.array_types import Logits

RANKS = (2, 3, 4, 5)


class RankShares(NamedTuple):
    """Where newly successful attacks end.

    Attributes:
      number: of attacks newly successful at each of E radii.
      share: of these, the share in each of R ranks; NaN where `number` is 0. What is
        missing to 1 ends in a class further down.
    """

    number: Int[np.ndarray, "E"]
    share: Float[np.ndarray, "E R"]


def class_rank(logits: Logits, classes: Int[Array, "B"]) -> Int[Array, "B"]:
    """Returns the rank of a class in each prediction, 1 for the most probable.

    Of `classes` there is one for each row. Among equal logits the lower class comes
    first, as in argmax.
    """
    own = jnp.take_along_axis(logits, classes[:, None], -1)
    before = jnp.arange(logits.shape[-1])[None, :] < classes[:, None]
    ahead = (logits > own) | ((logits == own) & before)
    return 1 + jnp.sum(ahead, -1)


def newly_successful(
    correct: Bool[np.ndarray, "N E"], clean_correct: Bool[np.ndarray, "N"]
) -> Bool[np.ndarray, "N E"]:
    """Returns which attacks succeed at a radius but not at the one before.

    Only images that are classified as labelled before the attack count; the radius
    before the first is 0. ValueError unless the two are about the same images.

    Args:
      correct: whether N attacked images are classified as labelled, at E growing radii.
      clean_correct: the same of the images as they are.
    """
    if correct.ndim != 2 or clean_correct.shape != correct.shape[:1]:
        raise ValueError(
            "`correct` must be [N, E] and `clean_correct` [N], got "
            f"{correct.shape} and {clean_correct.shape}."
        )
    before = np.concatenate([clean_correct[:, None], correct[:, :-1]], axis=1)
    return clean_correct[:, None] & before & ~correct


def rank_shares(
    ranks: Int[np.ndarray, "N E"],
    newly: Bool[np.ndarray, "N E"],
    wanted: Sequence[int] = RANKS,
) -> RankShares:
    """Counts newly successful attacks by the rank of the class they end in.

    Args:
      ranks: of the predicted class in the clean prediction (`class_rank`).
      newly: of `newly_successful`; ValueError where it has another shape.
      wanted: R ranks.
    """
    if ranks.shape != newly.shape:
        raise ValueError(
            f"`ranks` and `newly` must be alike, got {ranks.shape} and {newly.shape}."
        )
    count = newly.sum(0)
    hits = [(newly & (ranks == rank)).sum(0) for rank in wanted]
    found = np.stack(hits, -1) if hits else np.zeros((len(count), 0))
    share = np.full(found.shape, np.nan)
    share[count > 0] = found[count > 0] / count[count > 0, None]
    return RankShares(count, share)
