"""Which image and run sits in which slot, and what comes next. Host code only.

What it decides depends on what happened, never on time: the same events give the
same decisions, so a run that is continued decides as it would have.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

FREE = -1


@dataclasses.dataclass
class Board:
    """The items (image, run) of one stage: in slots, waiting, or done with.

    Items wait run by run, so that later runs of an image start only once no image
    waits for an earlier one. A run that hits cancels the later runs of its image; the
    earlier ones go on, and the earliest that hits is the image's result, whatever the
    number of slots.

    Attributes:
      images: numbers of the N images of the stage.
      runs: of each image.
      slot_image: place in `images` of each slot's item, or FREE, `[S]`.
      slot_run: its run, `[S]`.
      slot_step: steps it has made, `[S]`.
      first_hit: earliest run that hit per image, `runs` where none, `[N]`.
      place: the next item to be taken, counted run by run.
      again: items to take before that: their work was lost.
    """

    images: Int[np.ndarray, "N"]
    runs: int
    slot_image: Int[np.ndarray, "S"]
    slot_run: Int[np.ndarray, "S"]
    slot_step: Int[np.ndarray, "S"]
    first_hit: Int[np.ndarray, "N"]
    place: int = 0
    again: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    @classmethod
    def new(cls, images: Int[np.ndarray, "N"], runs: int, slots: int) -> "Board":
        """Makes the board of a stage that has not begun."""
        images = np.asarray(images, np.int64)
        free = np.full(slots, FREE, np.int64)
        return cls(
            images, runs, free, np.zeros_like(free), np.zeros_like(free),
            np.full(len(images), runs, np.int64),
        )  # fmt: skip

    @property
    def busy(self) -> Bool[np.ndarray, "S"]:
        """Which slots hold an item."""
        return self.slot_image != FREE

    def fill(self) -> Int[np.ndarray, "n"]:
        """Puts waiting items into free slots and returns these slots."""
        filled = []
        for slot in np.flatnonzero(~self.busy):
            item = self._next()
            if item is None:
                break
            self.slot_image[slot], self.slot_run[slot] = item
            self.slot_step[slot] = 0
            filled.append(slot)
        return np.asarray(filled, np.int64)

    def _next(self) -> tuple[int, int] | None:
        while self.again:
            image, run = self.again.pop(0)
            if run < self.first_hit[image]:
                return image, run
        while self.place < len(self.images) * self.runs:
            run, image = divmod(self.place, len(self.images))
            self.place += 1
            if run < self.first_hit[image]:
                return image, run
        return None

    def advanced(self, count: int) -> None:
        """Counts steps that every busy slot has made."""
        self.slot_step[self.busy] += count

    def hits(self, slots: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Ends the items of slots that hit and cancels what they make needless.

        Returns:
          Which of them are, so far, the result of their image.
        """
        best = np.zeros(len(slots), bool)
        for n, slot in enumerate(slots):
            image, run = self.slot_image[slot], self.slot_run[slot]
            best[n] = run < self.first_hit[image]
            if best[n]:
                self.first_hit[image] = run
            self.slot_image[slot] = FREE
        taken = np.where(self.busy, self.slot_image, 0)
        needless = self.busy & (self.slot_run > self.first_hit[taken])
        self.slot_image[needless] = FREE
        return best

    def ends(self, points: int) -> Int[np.ndarray, "n"]:
        """Returns the slots whose items have made all their steps."""
        return np.flatnonzero(self.busy & (self.slot_step >= points))

    def release(self, slots: Int[np.ndarray, "n"]) -> None:
        """Frees slots whose items have ended without a hit."""
        self.slot_image[slots] = FREE

    def remaining(self, points: int) -> int:
        """Returns the steps still to be made if nothing more is hit."""
        waiting = sum(max(0, points - int(step)) for step in self.slot_step[self.busy])
        run, image = divmod(self.place, max(len(self.images), 1))
        for later in range(run, self.runs):
            first = image if later == run else 0
            waiting += points * int((later < self.first_hit[first:]).sum())
        return waiting + points * len(self.again)

    def restart(self, slots: int) -> "Board":
        """Returns the board with other slots: the items in them wait again, first."""
        lost = sorted(
            (int(run), int(image))
            for image, run in zip(
                self.slot_image[self.busy], self.slot_run[self.busy], strict=True
            )
        )
        board = Board.new(self.images, self.runs, slots)
        board.first_hit, board.place = self.first_hit.copy(), self.place
        board.again = [(image, run) for run, image in lost] + list(self.again)
        return board

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as arrays, to be saved."""
        return {
            "images": self.images,
            "runs": np.asarray(self.runs),
            "slot_image": self.slot_image,
            "slot_run": self.slot_run,
            "slot_step": self.slot_step,
            "first_hit": self.first_hit,
            "place": np.asarray(self.place),
            "again": np.asarray(self.again, np.int64).reshape(-1, 2),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "Board":
        """Makes the board again from what `to_arrays` returned."""
        named: dict[str, Any] = {k: np.array(v) for k, v in arrays.items()}
        named |= {k: int(arrays[k]) for k in ("runs", "place")}
        named["again"] = [(image, run) for image, run in arrays["again"].tolist()]
        return cls(**named)


def balanced(items: int, most: int, unit: int) -> int:
    """Returns how many slots to use so that few stay empty in the last round.

    Args:
      items: of the stage.
      most: slots that may be used, a multiple of `unit`.
      unit: what the slots must be a multiple of.
    """
    if not items:
        return most
    rounds = -(-items // most)
    even = -(-items // (rounds * unit)) * unit
    return min(most, even) if rounds * most > 1.05 * items else most
