"""What AutoAttack has found: so far, and in the end."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrobust.array_types import Norm
from jaxrobust.attacks.autoattack_versions import Calls
from jaxrobust.evaluation import statistics, step
from jaxrobust.evaluation.flags import RaisedFlag


class StageResult(NamedTuple):
    """One attack of the ensemble, by its name there, such as apgd-ce.

    `robust` [N] are robust after it; it took `seconds`, compilation included, and
    `calls` of the model, in images.
    """

    name: str
    robust: Bool[np.ndarray, "N"]
    seconds: float
    calls: Calls


class State(NamedTuple):
    """Where an evaluation stands between two stages: all that is kept of it."""

    logits: Float[np.ndarray, "N K"]  # of the clean images: targets come from them
    clean: Bool[np.ndarray, "N"]  # classified as labelled without an attack
    stages: tuple[StageResult, ...]  # that are through
    x_adv: Float[np.ndarray, "N H W C"]  # the worst points so far
    correct_share: Float[np.ndarray, "N"]  # of draws that classify them as labelled
    # At every step of a run of each attack that uses gradients.
    zero_gradient: Bool[np.ndarray, "N"]
    not_finite: Bool[np.ndarray, "N"]  # logits, at a point that an attack tried
    rejected: Int[np.ndarray, "N"]  # successes that a second look did not confirm
    numbers: Mapping[str, float]  # behind the flags, about the clean images

    @property
    def robust(self) -> Bool[np.ndarray, "N"]:
        """Which images are robust so far."""
        return self.correct_share >= step.HALF

    @property
    def left(self) -> Int[np.ndarray, "n"]:
        """Numbers of the images that are right in any draw: there is more to find."""
        return np.flatnonzero(self.correct_share > 0)


@dataclasses.dataclass(frozen=True)
class Result:
    """What AutoAttack found on N images.

    An image is robust if it is classified as labelled as it is and under every attack;
    for a randomised model, in most of its draws. Where no adversarial image was found,
    `x_adv` is the image itself, for a randomised model the strongest one found.
    `correct_share` is 0 or 1, and `draws` is 1, unless the model is randomised.
    """

    robust: Bool[np.ndarray, "N"]
    x_adv: Float[np.ndarray, "N H W C"]
    clean: Bool[np.ndarray, "N"]
    stages: list[StageResult]  # one per attack, in their order
    flags: list[RaisedFlag]  # warnings
    replaced: tuple[str, ...]  # what differs from the published settings, in words
    version: str
    norm: Norm
    eps: float
    correct_share: Float[np.ndarray, "N"]  # of fresh draws, at the worst image found
    draws: int  # fresh ones per image

    @property
    def robust_accuracy(self) -> float:
        """Share of robust images; for a randomised model its expected accuracy."""
        return float(self.correct_share.mean())

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified as labelled without an attack."""
        return float(self.clean.mean())

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % interval of the robust accuracy: Wilson's.

        For a randomised model the number of hits is the sum of the shares: their
        variance over images is at most that of as many coin flips.
        """
        return statistics.wilson_interval(
            round(float(self.correct_share.sum())), len(self.robust)
        )
