"""The file from which a killed evaluation goes on: numbers, and arrays by name.

Nothing that is read is believed: what cannot be so is told.
"""

import json
import time
from typing import Any

import numpy as np
from etils import epath

from jaxrobust.attacks.autoattack_versions import Stage
from jaxrobust.evaluation import logits as of_logits
from jaxrobust.evaluation.autoattack import flags, packing, stage
from jaxrobust.evaluation.autoattack.packing import Packed
from jaxrobust.evaluation.autoattack.queue import Queue
from jaxrobust.evaluation.autoattack.result import State
from jaxrobust.evaluation.autoattack.setup import Setup
from jaxrobust.parallel import processes
from jaxrobust.runtime import files, reading

VERSION = 3
_META = "meta"
_SAVING_SHARE = 20  # times as long as it took is waited before the next
# Of a typical lead: more than rounding on other devices, also of half precision.
_CHANGE = 0.05
# Of the images: those whose lead may change by more in a network that is the same.
_OTHER_SHARE = 0.01
# Of the draws of a randomised model, and of what flags are made of (shares, mostly).
_OTHER_DRAWS, _OTHER_NUMBER = 0.25, 0.1


class StateFile:
    """Writes an evaluation's state now and then, and reads it."""

    def __init__(
        self, setup: Setup, folder: epath.PathLike | None, every: float
    ) -> None:
        """Names the file in `folder`; None keeps nothing. `every` is in seconds."""
        self._setup, self._every = setup, every
        self._last, self._took = time.monotonic(), 0.0
        self._path = None
        if folder is not None:
            name = f"autoattack-{setup.version}-{setup.fingerprint()[:16]}.npz"
            self._path = files.expand(folder) / name
            files.require_folder(self._path.parent, "give another `state_dir`")

    def save_if_due(self, state: State, now: stage.StageState) -> None:
        """Saves if it is time, by the lead's clock; large states less often."""
        if self._path is None:
            return
        wait = max(self._every, _SAVING_SHARE * self._took)
        if processes.agree(time.monotonic() - self._last >= wait):
            self.save(state, now)

    def save(self, state: State, now: stage.StageState | None = None) -> None:
        """Saves, in the middle of a stage where `now` is one."""
        if self._path is None:
            return
        begin = time.monotonic()
        meta, arrays = packing.pack(self._setup, state, now)
        if processes.is_lead():
            text = np.asarray(json.dumps({**meta, "format": VERSION}))
            files.write_npz(self._path, {_META: text, **arrays}, compress=False)
        self._last = time.monotonic()
        self._took = self._last - begin

    def load(self, clean: np.ndarray) -> tuple[State, Packed | None] | None:
        """Returns what was saved: the state, and the middle of a stage or None.

        Logits of the clean images are those of the first start, since targets come from
        them; `clean`, of now, may differ by rounding.

        Raises:
          ValueError: if the file cannot be read, or is of another model.
        """
        saved = None if self._path is None else read(self._path)
        processes.check_same(
            f"the saved state {self._path}", lambda: saved and saved[0]
        )
        if saved is None:
            return None
        meta, arrays = saved
        if fault := packing.fault(self._setup, clean, meta, arrays):
            raise self._damaged(fault)
        self._check_same(arrays["clean"], clean)
        state = packing.unpack(self._setup, meta, arrays)
        self._check_verdicts(state)
        if self._setup.tag is not None:  # else its program tells the model
            self._check_numbers(state, clean)
        if meta["runner"] is None:
            return state, None
        return state, (meta["runner"], packing.below("runner", arrays))

    def resumed(
        self, attack: Stage, logits: np.ndarray, meta: Any, arrays: packing.Arrays
    ) -> tuple[stage.Program, stage.StageState]:
        """Returns a stage where it was left, of what `load` found in its middle.

        With other slots, or on other devices, the items in flight start again.
        """
        setup = self._setup
        try:
            queue = Queue.from_arrays(packing.below("board", arrays))
            slots = setup.slots_of(len(queue.images) * attack.method.runs())
            here = (setup.devices.count, slots)
            same = (meta["devices"], len(queue.slot_image)) == here
            if not same:
                queue = queue.restart(slots)
            program, now = stage.compiled(setup, attack, logits, queue)
            now = now._replace(found=packing.findings(meta, arrays))
            if not same:
                return program, now
            rows = setup.devices.put_rows(stage.with_leaves(now.slots, arrays))
            return program, now._replace(slots=rows, pace=meta["count"])
        except (LookupError, TypeError, ValueError) as error:
            [reason, *_] = str(error).splitlines() or [type(error).__name__]
            raise self._damaged(reason[:200]) from None

    def _damaged(self, fault: str) -> ValueError:
        return ValueError(
            f"the saved state {self._path} is damaged ({fault}): delete it to start "
            "anew."
        )

    def _check_same(self, saved: np.ndarray, clean: np.ndarray) -> None:
        """Raises where the clean logits that were saved are not this model's."""
        dtype, other = self._setup.second_look.model.out.dtype, 1.0
        if saved.shape == clean.shape:
            change = of_logits.lead_change(saved, clean, dtype)
            other = float((change > _CHANGE).mean())
        if other > _OTHER_SHARE:
            raise self._of_another(
                f"for {other:.0%} of the clean images its logits are not those of this "
                "one"
            )

    def _check_verdicts(self, state: State) -> None:
        """Raises where this model is not fooled by what fooled the one that was saved.

        Another may give the clean images the same logits.
        """
        setup, x_adv = self._setup, state.x_adv
        rows = np.flatnonzero((x_adv != setup.examples.x).any((1, 2, 3)))
        if not len(rows):
            return
        if setup.stochastic:
            share = setup.correct_share(rows, x_adv[rows])
            differs = np.abs(share - state.correct_share[rows]) > _OTHER_DRAWS
        else:
            logits = setup.second_look(x_adv[rows])
            y = setup.examples.y[rows, None]
            own = np.take_along_axis(logits, y, -1)[:, 0]
            others = np.where(np.arange(logits.shape[-1]) == y, -np.inf, logits)
            usual = of_logits.typical_lead(state.logits)
            # Not by rounding on another device. What is NaN fools nothing.
            differs = ~(own - others.max(-1) <= _CHANGE * usual)
        if (other := float(differs.mean())) > _OTHER_SHARE:
            raise self._of_another(
                f"for {other:.0%} of the {len(rows)} adversarial images in it this one "
                "has another verdict"
            )

    def _check_numbers(self, state: State, clean: np.ndarray) -> None:
        """Raises where this model does not move around the images as that one did."""
        now = flags.numbers_of(self._setup, clean)
        # What the program alone says, its digest has told apart already.
        compared = (now.keys() | state.numbers.keys()) - {*flags.ADAPTS}
        for name in sorted(compared):
            before, after = state.numbers.get(name, np.nan), now.get(name, np.nan)
            limit = _OTHER_NUMBER
            if name in ("lead", "step"):
                limit *= max(abs(before), abs(after))
            if not abs(before - after) <= limit:
                raise self._of_another(
                    f"`{name}` of its images is {after:.3g}, and {before:.3g} there"
                )

    def _of_another(self, why: str) -> ValueError:
        return ValueError(
            f"the saved state {self._path} is of another model: {why}. Give each model "
            "a `state_dir` or a `state_tag` of its own, or delete the file."
        )


def read(path: epath.Path) -> Packed | None:
    """Reads a file of `StateFile`, or refuses it by name; None where there is none."""
    if not path.exists():
        return None
    try:
        # They are not compressed: more than the file has would be a trick.
        arrays = reading.read_npz(path, epath.Path(path).stat().length)
        meta = json.loads(str(arrays.pop(_META)))
        if not isinstance(meta, dict):
            raise ValueError("it says nothing about itself")
    except (ValueError, KeyError, OSError, RecursionError) as error:
        why = str(error).removeprefix(f"{path} is ").rstrip(".")
        raise ValueError(
            f"the saved state {path} cannot be read: {why}; delete it to start anew."
        ) from None
    if meta.get("format") != VERSION:
        raise ValueError(
            f"the saved state {path} has format {meta.get('format')}, this program "
            f"reads {VERSION}: delete it to start anew."
        )
    return meta, arrays
