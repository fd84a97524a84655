"""One stage of AutoAttack: a fixed number of slots, refilled from a queue."""

import collections
import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import parallel
from jaxrobust.attacks import stepping
from jaxrobust.attacks.autoattack_versions import Calls, Stage
from jaxrobust.evaluation.autoattack.queue import Queue
from jaxrobust.evaluation.autoattack.setup import Setup

# Steps between two looks at what was found, at most. They double from 1 while nothing
# is found: a look costs the host's attention, a late one costs steps of fooled rows.
_MOST_AT_ONCE = 16


class StageFindings(NamedTuple):
    """What a stage has found, by number of the image.

    `x_adv` are adversarial images: of a randomised model the strongest one of each run,
    else the one of the earliest run that hit. `rejected` counts successes that were not
    confirmed; `zero_gradient` had none at every step of a run, and the logits of those
    in `not_finite` were not, at some point. `seconds` were spent in this process and
    those before it.
    """

    x_adv: Mapping[int, tuple[np.ndarray, ...]]
    rejected: Mapping[int, int]
    zero_gradient: frozenset[int] = frozenset()
    not_finite: frozenset[int] = frozenset()
    calls: Calls = Calls()
    seconds: float = 0.0


class StageState(NamedTuple):
    """Where a stage stands between two steps: all that goes on from there.

    A step takes the memory of `slots`, on the devices, for its result. `pace` are the
    steps that were made between the last two looks.
    """

    queue: Queue
    slots: stepping.Slots
    found: StageFindings
    pace: int = 1

    def spent(self, seconds: float) -> "StageState":
        """Adds to the time."""
        found = self.found._replace(seconds=self.found.seconds + seconds)
        return self._replace(found=found)

    def done(self, stage: Stage) -> tuple[int, int]:
        """Returns steps done, and all steps as far as is known."""
        points = stage.method.points
        total = points * self.queue.runs * len(self.queue.images)
        return total - self.queue.remaining(points), total


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled programs of a stage, those of its Stepper, for one number of slots.

    Each is called with `given`, the model's arrays and the radius. The clean images'
    `logits` are on the host. `advance` makes as many steps as it is told, at most
    `most`.
    """

    setup: Setup
    stage: Stage
    logits: np.ndarray
    given: tuple[Any, ...]
    refill: Callable[..., stepping.Slots]
    advance: Callable[..., stepping.Slots]
    reject: Callable[..., stepping.Slots]
    strongest: Callable[..., jax.Array]
    most: int

    def fill(self, now: StageState) -> StageState:
        """Starts waiting items in the slots that are free."""
        queue, filled = now.queue.fill()
        if not len(filled):
            return now._replace(queue=queue)
        rows = _rows(self.setup, self.logits, queue)
        slots = self.refill(*self.given, now.slots, rows, self._mask(queue, filled))
        calls = now.found.calls.plus(self.stage.at_start, len(filled))
        found = now.found._replace(calls=calls)
        return now._replace(queue=queue, slots=slots, found=found)

    def step(self, now: StageState) -> StageState:
        """Makes some steps of all slots and looks at what came of it."""
        queue, points = now.queue, self.stage.method.points
        left = points - int(queue.slot_step[queue.busy].max())
        count = max(1, min(now.pace, self.most, left))
        slots = self.advance(*self.given, now.slots, np.int32(count))
        found = self._called(now.found, count * int(queue.busy.sum()))
        hit = parallel.to_host(slots.found) & queue.busy & (not self.setup.stochastic)
        where = np.flatnonzero(hit)
        pace = 1 if len(where) else min(2 * count, _MOST_AT_ONCE)
        now = StageState(queue.advanced(count), slots, found, pace)
        while len(where):
            now, where = self._take(now, where)
        ended = now.queue.ends(points)
        return self._end(now, ended) if len(ended) else now

    def _take(
        self, now: StageState, where: np.ndarray
    ) -> tuple[StageState, np.ndarray]:
        """Takes over what was found in slots; what a second look rejects goes on.

        Also returns the slots that have something else to be looked at.
        """
        queue, found = now.queue, now.found
        numbers = queue.images[queue.slot_image[where]]
        x_found = parallel.rows_to_host(now.slots.x_found, where)
        stands = self.setup.stands(numbers, x_found)
        queue, best = queue.hits(where[stands])
        taken = zip(numbers[stands][best], x_found[stands][best], strict=True)
        new = {int(number): (image.copy(),) for number, image in taken}
        found = found._replace(x_adv={**found.x_adv, **new})
        now = now._replace(queue=queue, found=found)
        if stands.all():
            return now, where[:0]
        rejected = collections.Counter(found.rejected)
        rejected.update(int(n) for n in numbers[~stands])
        back = where[~stands]
        slots = self.reject(*self.given, now.slots, self._mask(queue, back))
        again = back[(parallel.to_host(slots.found) & queue.busy)[back]]
        found = found._replace(rejected=rejected)
        return now._replace(slots=slots, found=found), again

    def _end(self, now: StageState, ended: np.ndarray) -> StageState:
        """Frees the slots whose items have made all their steps."""
        found, numbers = now.found, now.queue.images[now.queue.slot_image[ended]]
        health = now.slots.carry.health
        zero = numbers[parallel.to_host(health.zero_gradient)[ended]]
        odd = numbers[parallel.to_host(health.not_finite)[ended]]
        found = found._replace(
            zero_gradient=found.zero_gradient.union(zero.tolist()),
            not_finite=found.not_finite.union(odd.tolist()),
        )
        if self.setup.stochastic:
            strongest = parallel.to_host(self.strongest(*self.given, now.slots))
            x_adv = dict(found.x_adv)
            for number, slot in zip(numbers.tolist(), ended, strict=True):
                x_adv[number] = (*x_adv.get(number, ()), strongest[slot].copy())
            found = found._replace(x_adv=x_adv)
        return now._replace(queue=now.queue.release(ended), found=found)

    def _mask(self, queue: Queue, slots: np.ndarray) -> Any:
        of_slots = np.isin(np.arange(len(queue.slot_image)), slots)
        return self.setup.devices.put_rows(of_slots)

    def _called(self, found: StageFindings, steps: int) -> StageFindings:
        return found._replace(calls=found.calls.plus(self.stage.per_step, steps))


def compiled(
    setup: Setup, stage: Stage, logits: np.ndarray, queue: Queue
) -> tuple[Program, StageState]:
    """Compiles a stage for the slots that its queue has; also returns its beginning."""
    x, devices, count = setup.examples.x, setup.devices, len(queue.slot_image)
    shape = jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)
    model = stepping.capture_model(setup.attacked, shape, stochastic=setup.stochastic)
    stream = zlib.crc32(stage.name.encode())
    stepper = stepping.Stepper(model, stage.method, setup.problem(stage), stream)
    eps: Any = np.asarray(setup.eps, x.dtype)
    given = (devices.put_copies(list(model.arrays)), eps)
    rows = _rows(setup, logits, queue)
    blank = jax.tree.map(_blank, jax.eval_shape(stepper.start, *given, rows))
    slots = devices.put_rows(blank._replace(rows=rows))
    new = devices.put_rows(np.zeros(count, bool))
    options: Any = {"model": model, "donate": (2,), "shardings": devices.by_rows}
    refill = stepping.build(
        stepper.refill, *given, slots, rows, new, seldom=True, **options
    )
    if one_by_one := stepper.has_slow_step(*given, slots):
        one = stepping.build(stepper.step, *given, slots, **options)
        advance = lambda *given_and_count: one(*given_and_count[:-1])  # noqa: E731
    else:
        advance = stepping.build(stepper.advance, *given, slots, np.int32(1), **options)
    program = Program(
        setup,
        stage,
        logits,
        given,
        refill,
        advance,
        reject=jax.jit(stepper.reject, out_shardings=devices.by_rows),
        strongest=jax.jit(stepper.strongest),
        most=1 if one_by_one else _MOST_AT_ONCE,
    )
    return program, StageState(queue, slots, StageFindings({}, {}))


def run(
    program: Program, now: StageState, after: Callable[[StageState], None]
) -> StageFindings:
    """Goes on until nothing is left; calls `after` whenever it may be saved."""
    while True:
        begin = time.monotonic()
        now = program.fill(now)
        if not now.queue.busy.any():
            return now.found
        now = program.step(now).spent(time.monotonic() - begin)
        after(now)


def _rows(setup: Setup, logits: np.ndarray, queue: Queue) -> stepping.Rows:
    numbers = queue.images[np.where(queue.busy, queue.slot_image, 0)]
    x, y, keys = setup.examples
    # Gathered on the host: keys of jax are not.
    data: Any = np.asarray(jax.random.key_data(keys))[numbers]
    own: Any = jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))
    run = queue.slot_run.astype(np.int32)
    given: Any = x[numbers], y[numbers], own, logits[numbers], run
    return setup.devices.put_rows(stepping.Rows._make(given))


def _blank(leaf: jax.ShapeDtypeStruct) -> Any:
    if _is_key(leaf):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return np.zeros(leaf.shape, leaf.dtype)


def leaves(slots: stepping.Slots) -> dict[str, np.ndarray]:
    """Returns the leaves of slots as host arrays `slots/NUMBER`; keys as their data."""
    found = parallel.to_host([_plain(leaf) for leaf in jax.tree.leaves(slots)])
    return {f"slots/{number}": leaf for number, leaf in enumerate(found)}


def with_leaves(like: stepping.Slots, arrays: Mapping[str, np.ndarray]) -> Any:
    """Makes slots again, in the structure of `like`, of what `leaves` returned."""
    found, tree = [], jax.tree.structure(like)
    for number, leaf in enumerate(jax.tree.leaves(like)):
        array, wanted = arrays[f"slots/{number}"], jax.eval_shape(_plain, leaf)
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"slots/{number} is {array.dtype} {array.shape}")
        if _is_key(leaf):
            impl = jax.random.key_impl(leaf)
            array = jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
        found.append(array)
    return jax.tree.unflatten(tree, found)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf
