"""PGD whose runs, or steps, each have a loss of their own."""

import dataclasses
from typing import Any, NamedTuple

from jaxrobust.array_types import Images
from jaxrobust.attacks import _ascent
from jaxrobust.attacks._ascent import Ascent
from jaxrobust.attacks._method import Count, Health
from jaxrobust.attacks._objective import Keys, Problem


class Carry(NamedTuple):
    """State of the ascent, and what the run aims at."""

    ascent: _ascent.Carry
    aim: Any

    @property
    def health(self) -> Health | None:
        """That of the ascent."""
        return self.ascent.health


@dataclasses.dataclass(frozen=True)
class Aimed(Ascent):
    """A subclass gives `aim` and `aimed`; runs are compared by the problem's loss."""

    def aim(self, problem: Problem, keys: Keys, r: Count) -> Any:
        """What run r aims at: arrays, one per row or one for all."""
        raise NotImplementedError

    def aimed(self, problem: Problem, aim: Any, i: Count) -> Problem:
        """The problem with the loss of step i."""
        raise NotImplementedError

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Makes the first point, and chooses the aim."""
        aim = self.aim(problem, keys, r)
        return Carry(super().start(self.aimed(problem, aim, 0), keys, r), aim)

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One ascent step of the loss that is aimed at."""
        aimed = self.aimed(problem, carry.aim, i)
        return carry._replace(ascent=super().step(aimed, keys, i, carry.ascent))

    def finish(self, problem: Problem, keys: Keys, carry: Carry) -> Images:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the last point, in L1 the best by the loss that is aimed at."""
        aimed = self.aimed(problem, carry.aim, self.steps)
        return super().finish(aimed, keys, carry.ascent)
