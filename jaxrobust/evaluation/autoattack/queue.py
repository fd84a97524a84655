"""Which image and run sits in which slot, and what comes next. Host code only.

What it decides depends on what happened, never on time: the same events give the
same decisions, so a run that is continued decides as it would have. A queue is a value:
what happens makes a new one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

FREE = -1


class Queue(NamedTuple):
    """The items (image, run) of one stage: in slots, waiting, or done with.

    Items wait run by run, so that later runs of an image start only once no image
    waits for an earlier one. A run that hits cancels the later runs of its image; the
    earlier ones go on, and the earliest that hits is the image's result, whatever the
    number of slots.
    """

    images: Int[np.ndarray, "N"]  # numbers of the images of the stage
    runs: int  # of each image
    slot_image: Int[np.ndarray, "S"]  # place in `images` of each slot's item, or FREE
    slot_run: Int[np.ndarray, "S"]
    slot_step: Int[np.ndarray, "S"]  # that were made
    first_hit: Int[np.ndarray, "N"]  # earliest run that hit, `runs` where none
    place: int = 0  # of the next item to be taken, counted run by run
    again: tuple[tuple[int, int], ...] = ()  # to take before: their work was lost

    @classmethod
    def new(cls, images: Int[np.ndarray, "N"], runs: int, slots: int) -> "Queue":
        """Makes the queue of a stage that has not begun."""
        images = np.asarray(images, np.int64)
        free = np.full(slots, FREE, np.int64)
        none = np.zeros_like(free)
        return cls(images, runs, free, none, none, np.full(len(images), runs, np.int64))

    @property
    def busy(self) -> Bool[np.ndarray, "S"]:
        """Which slots hold an item."""
        return self.slot_image != FREE

    def fill(self) -> tuple["Queue", Int[np.ndarray, "n"]]:
        """Puts waiting items into free slots; returns the queue, and these slots."""
        free = np.flatnonzero(~self.busy)
        again, place = list(self.again), self.place
        items: list[tuple[int, int]] = []
        while len(items) < len(free):
            if again:
                image, run = again.pop(0)
            elif place < len(self.images) * self.runs:
                run, image = divmod(place, len(self.images))
                place += 1
            else:
                break
            if run < self.first_hit[image]:
                items.append((image, run))
        filled = free[: len(items)]
        images, runs = np.asarray(items, np.int64).reshape(-1, 2).T
        queue = self._replace(
            slot_image=_put(self.slot_image, filled, images),
            slot_run=_put(self.slot_run, filled, runs),
            slot_step=_put(self.slot_step, filled, 0),
            place=place,
            again=tuple(again),
        )
        return queue, filled

    def advanced(self, count: int) -> "Queue":
        """Counts steps that every busy slot has made."""
        return self._replace(slot_step=self.slot_step + count * self.busy)

    def hits(
        self, slots: Int[np.ndarray, "n"]
    ) -> tuple["Queue", Bool[np.ndarray, "n"]]:
        """Ends the items of slots that hit and cancels what they make needless.

        Also returns which of the slots are, so far, the result of their image.
        """
        first_hit, best = self.first_hit.copy(), np.zeros(len(slots), bool)
        for n, slot in enumerate(slots):
            image, run = self.slot_image[slot], self.slot_run[slot]
            best[n] = run < first_hit[image]
            first_hit[image] = min(run, first_hit[image])
        queue = self.release(slots)
        taken = np.where(queue.busy, queue.slot_image, 0)
        needless = queue.busy & (queue.slot_run > first_hit[taken])
        return queue.release(needless)._replace(first_hit=first_hit), best

    def ends(self, points: int) -> Int[np.ndarray, "n"]:
        """Returns the slots whose items have made all their steps."""
        return np.flatnonzero(self.busy & (self.slot_step >= points))

    def release(self, slots: Int[np.ndarray, "n"] | Bool[np.ndarray, "S"]) -> "Queue":
        """Frees slots."""
        return self._replace(slot_image=_put(self.slot_image, slots, FREE))

    def remaining(self, points: int) -> int:
        """Returns the steps still to be made if nothing more is hit."""
        waiting = sum(max(0, points - int(step)) for step in self.slot_step[self.busy])
        run, image = divmod(self.place, max(len(self.images), 1))
        for later in range(run, self.runs):
            first = image if later == run else 0
            waiting += points * int((later < self.first_hit[first:]).sum())
        return waiting + points * len(self.again)

    def restart(self, slots: int) -> "Queue":
        """Returns the queue with other slots: the items in them wait again, first."""
        busy = self.slot_run[self.busy], self.slot_image[self.busy]
        lost = sorted(zip(*(row.tolist() for row in busy), strict=True))
        return Queue.new(self.images, self.runs, slots)._replace(
            first_hit=self.first_hit,
            place=self.place,
            again=(*((image, run) for run, image in lost), *self.again),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as arrays, to be saved."""
        again = np.asarray(self.again, np.int64).reshape(-1, 2)
        named = self._replace(again=())._asdict() | {"again": again}
        return {name: np.asarray(value) for name, value in named.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "Queue":
        """Makes the queue again from what `to_arrays` returned."""
        named: dict[str, Any] = {k: np.array(v) for k, v in arrays.items()}
        named |= {name: int(arrays[name]) for name in ("runs", "place")}
        named["again"] = tuple((image, run) for image, run in arrays["again"].tolist())
        return cls(**named)


def _put(array: np.ndarray, where: np.ndarray, values: Any) -> np.ndarray:
    """Returns a copy of an array with other values at some places."""
    changed = array.copy()
    changed[where] = values
    return changed


def balanced(items: int, most: int, unit: int) -> int:
    """Returns how many slots to use so that few stay empty in the last round.

    At most `most` for so many items, a multiple of `unit`, as that is, and of an eighth
    of `most`: numbers of items that are nearly the same share a compiled program.
    """
    if not items:
        return most
    rounds = -(-items // most)
    unit *= max(1, most // (8 * unit))
    return min(most, -(-items // (rounds * unit)) * unit)
