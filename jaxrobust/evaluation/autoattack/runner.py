"""One stage of the ensemble: a fixed number of slots, refilled from the board."""

import collections
import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxrobust import parallel
from jaxrobust.array_types import Key, LogitsFn
from jaxrobust.attacks import stepping
from jaxrobust.evaluation.autoattack import state
from jaxrobust.evaluation.autoattack.board import Board
from jaxrobust.evaluation.autoattack.forward import Place
from jaxrobust.evaluation.autoattack.versions import Calls, Stage

# Steps between two looks at what was found, at most. They double from 1 while nothing
# is found: a look costs the host's attention, a late one costs steps of fooled rows.
_MOST_AT_ONCE = 16


# Which adversarial images `[n, H, W, C]` stand, given the numbers of their images.
Confirm = Callable[[Int[np.ndarray, "n"], np.ndarray], Bool[np.ndarray, "n"]]


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of an evaluation, on the host.

    Attributes:
      x: `[N, H, W, C]`.
      y: int32 `[N]`.
      keys: one per image, `[N]`.
      clean: logits `[N, K]` of the images.
    """

    x: np.ndarray
    y: np.ndarray
    keys: Key
    clean: np.ndarray


@dataclasses.dataclass
class Outcome:
    """What a stage has found so far.

    Attributes:
      x_adv: adversarial images by number of the image; for a randomised model the
        strongest one of each run, in a list.
      stuck: numbers of images whose gradient was zero at every step of a run.
      rejected: by number of the image, how many successes were not confirmed.
      calls: model calls.
      seconds: spent, in this process and those before it.
    """

    x_adv: dict[int, Any] = dataclasses.field(default_factory=dict)
    stuck: set[int] = dataclasses.field(default_factory=set)
    rejected: collections.Counter[int] = dataclasses.field(
        default_factory=collections.Counter
    )
    calls: Calls = dataclasses.field(default_factory=Calls)
    seconds: float = 0.0


class Runner:
    """Runs one stage; between two steps all of it can be saved."""

    def __init__(
        self,
        logits_fn: LogitsFn,
        stage: Stage,
        images: Images,
        board: Board,
        *,
        eps: float,
        fields: Mapping[str, Any],
        place: Place,
        confirm: Confirm,
    ) -> None:
        """Compiles the stage's programs for as many slots as the board has.

        Args:
          logits_fn: the model.
          stage: which attack.
          images: of the evaluation.
          board: of the stage.
          eps: radius.
          fields: what is static about the problem.
          place: devices.
          confirm: the second look at what a slot has found.
        """
        self._confirm = confirm
        self.stage, self.board, self.outcome = stage, board, Outcome()
        self._images, self._place = images, place
        self._key_data = np.asarray(jax.random.key_data(images.keys))
        self._impl = jax.random.key_impl(images.keys)
        self._eps: Any = np.asarray(eps, images.x.dtype)
        self._stochastic = bool(fields["stochastic"])
        self._count = 1
        shape = jax.ShapeDtypeStruct(
            (len(board.slot_image), *images.x.shape[1:]), images.x.dtype
        )
        model = stepping.capture(logits_fn, shape, stochastic=self._stochastic)
        stream = zlib.crc32(stage.name.encode())
        self._stepper = stepping.Stepper(model, stage.method, dict(fields), stream)
        self._arrays = place.put_copies(list(model.arrays))
        self._compile()

    def _compile(self) -> None:
        stepper, model = self._stepper, self._stepper.model
        rows = self._rows()
        like = jax.eval_shape(stepper.start, self._arrays, self._eps, rows)
        blank = jax.tree.map(_blank, like)
        self.slots = self._place.put_rows(blank._replace(rows=rows))
        new = self._place.put_rows(np.zeros(len(self.board.slot_image), bool))
        common = (self._arrays, self._eps, self.slots)
        options = {"model": model, "donate": (2,), "shardings": self._place.rows}
        self._refill = stepping.build(
            stepper.refill, *common, rows, new, seldom=True, **options
        )
        self._strongest = jax.jit(stepper.strongest)
        self._reject = jax.jit(stepper.reject, out_shardings=self._place.rows)
        self._one_by_one = stepper.has_slow_step(*common)
        self._advance: Callable[..., stepping.Slots]
        if self._one_by_one:
            self._advance = stepping.build(stepper.step, *common, **options)
        else:
            self._advance = stepping.build(
                stepper.advance, *common, np.int32(1), **options
            )

    def _rows(self) -> stepping.Rows:
        """What the board says is in the slots, on the devices."""
        places = np.where(self.board.busy, self.board.slot_image, 0)
        numbers = self.board.images[places]
        images: Any = self._images
        run: Any = self.board.slot_run.astype(np.int32)
        key_data: Any = self._key_data[numbers]
        return self._place.put_rows(
            stepping.Rows(
                images.x[numbers],
                images.y[numbers],
                jax.random.wrap_key_data(key_data, impl=self._impl),
                images.clean[numbers],
                run,
            )
        )

    def run(self, after: Callable[["Runner"], None]) -> Outcome:
        """Goes on until nothing is left; calls `after` whenever it may be saved."""
        while True:
            begin = time.monotonic()
            filled = self.board.fill()
            if len(filled):
                self._start(filled)
            if not self.board.busy.any():
                return self.outcome
            self._look(self._step())
            self.outcome.seconds += time.monotonic() - begin
            after(self)

    def _start(self, filled: np.ndarray) -> None:
        new = np.zeros(len(self.board.slot_image), bool)
        new[filled] = True
        self.slots = self._refill(
            self._arrays, self._eps, self.slots, self._rows(), self._place.put_rows(new)
        )
        if isinstance(self.stage.method, stepping.Square):  # looks at its first point
            self._add_calls(len(filled))

    def _step(self) -> int:
        """Makes some steps of all slots and returns how many."""
        common = (self._arrays, self._eps, self.slots)
        count = 1
        if self._one_by_one:
            self.slots = self._advance(*common)
        else:
            board, points = self.board, self.stage.method.points
            left = points - int(board.slot_step[board.busy].max())
            count = max(1, min(self._count, left))
            self.slots = self._advance(*common, np.int32(count))
        self._add_calls(count * int(self.board.busy.sum()))
        self.board.advanced(count)
        return count

    def _add_calls(self, steps: int) -> None:
        calls, one = self.outcome.calls, self.stage.per_step
        self.outcome.calls = Calls(
            calls.gradients + steps * one.gradients,
            calls.forwards + steps * one.forwards,
        )

    def _look(self, count: int) -> None:
        """Takes out of the slots what has been found and what has ended."""
        board = self.board
        found = parallel.to_host(self.slots.found) & board.busy & (not self._stochastic)
        where = np.flatnonzero(found)
        self._count = 1 if len(where) else min(2 * count, _MOST_AT_ONCE)
        while len(where):
            where = self._take(where)
        ended = board.ends(self.stage.method.points)
        if len(ended):
            self._end(ended)

    def _take(self, where: np.ndarray) -> np.ndarray:
        """Takes over what was found in slots; what a second look rejects goes on.

        Returns:
          The slots that have something else to be looked at.
        """
        board = self.board
        numbers = board.images[board.slot_image[where]]
        x_found = parallel.rows_to_host(self.slots.x_found, where)
        stands = self._confirm(numbers, x_found)
        best = board.hits(where[stands])
        taken = zip(numbers[stands][best], x_found[stands][best], strict=True)
        for number, image in taken:
            self.outcome.x_adv[int(number)] = image.copy()
        if stands.all():
            return where[:0]
        self.outcome.rejected.update(int(n) for n in numbers[~stands])
        rejected = np.zeros(len(board.slot_image), bool)
        rejected[where[~stands]] = True
        self.slots = self._reject(
            self._arrays, self._eps, self.slots, self._place.put_rows(rejected)
        )
        again = parallel.to_host(self.slots.found) & rejected & board.busy
        return np.flatnonzero(again)

    def _end(self, ended: np.ndarray) -> None:
        numbers = self.board.images[self.board.slot_image[ended]]
        carry = self.slots.carry
        stuck = parallel.to_host(carry.health.zero_gradient)[ended]
        self.outcome.stuck |= {int(n) for n in numbers[stuck]}
        if self._stochastic:
            strongest = parallel.to_host(
                self._strongest(self._arrays, self._eps, self.slots)
            )
            for number, slot in zip(numbers, ended, strict=True):
                self.outcome.x_adv.setdefault(int(number), []).append(
                    strongest[slot].copy()
                )
        self.board.release(ended)

    def progress(self) -> tuple[int, int]:
        """Returns steps done, and all steps as far as is known."""
        points = self.stage.method.points
        total = points * self.board.runs * len(self.board.images)
        return total - self.board.remaining(points), total

    def save(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns all that goes on: numbers, and arrays by name."""
        kept = self.outcome
        found = [
            (number, x)
            for number, value in kept.x_adv.items()
            for x in (value if isinstance(value, list) else [value])
        ]
        blank = self._images.x[:0]
        arrays = {
            **{f"board/{k}": v for k, v in self.board.to_arrays().items()},
            **state.pack(self.slots, "slots"),
            "outcome/numbers": np.asarray([n for n, _ in found], np.int64),
            "outcome/x_adv": np.stack([x for _, x in found]) if found else blank,
            "outcome/stuck": np.asarray(sorted(kept.stuck), np.int64),
            "outcome/rejected": np.asarray(sorted(kept.rejected.elements()), np.int64),
        }
        meta = {
            "count": self._count,
            "devices": self._place.devices,
            "calls": list(kept.calls),
            "seconds": kept.seconds,
        }
        return meta, arrays

    def restore(
        self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, whole: bool
    ) -> None:
        """Goes on from what `save` returned; not `whole`: the slots start anew."""
        kept = self.outcome
        for number, x in zip(
            arrays["outcome/numbers"], arrays["outcome/x_adv"], strict=True
        ):
            if self._stochastic:
                kept.x_adv.setdefault(int(number), []).append(x)
            else:
                kept.x_adv[int(number)] = x
        kept.stuck |= {int(n) for n in arrays["outcome/stuck"]}
        kept.rejected.update(int(n) for n in arrays["outcome/rejected"])
        kept.calls, kept.seconds = Calls(*meta["calls"]), meta["seconds"]
        if whole:
            self._count = meta["count"]
            self.slots = self._place.put_rows(state.unpack(self.slots, arrays, "slots"))


def _blank(leaf: jax.ShapeDtypeStruct) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return np.zeros(leaf.shape, leaf.dtype)
