"""The next stage of AutoAttack, compiled in a thread while one runs."""

from concurrent import futures
from typing import Any

import jax
import numpy as np

from jaxrobust.evaluation.autoattack import stage, versions
from jaxrobust.evaluation.autoattack.queue import Queue
from jaxrobust.evaluation.autoattack.setup import Setup

# Share of the images that have been tried when it is foretold how many will be left.
_LOOK_AFTER = 1 / 2
# Rows that are worked on, over those of the best number of slots, up to which what is
# compiled is used; beyond it compiling again costs less.
_WASTE = 1.25


class Ahead:
    """Compiles; what it decides depends on what the stages find, never on time.

    The executables lie where `stepping.build` finds that of an equal program. One that
    was made under other settings of JAX is not found and does no harm.
    """

    def __init__(self, setup: Setup, logits: np.ndarray) -> None:
        """Takes what `stage.compiled` takes; ends its thread with the block."""
        self._setup, self._logits = setup, logits
        self._pool = futures.ThreadPoolExecutor(1)
        self._begun: dict[str, tuple[int, futures.Future[Any]]] = {}

    def __enter__(self) -> "Ahead":
        """Starts."""
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for the program that is being compiled, if any."""
        self._pool.shutdown(cancel_futures=True)

    def look(self, running: versions.Stage, now: stage.Progress) -> None:
        """Begins with the stage after `running` once its slots can be foretold."""
        stages, setup, queue = self._setup.plan.stages, self._setup, now.queue
        rest, images = stages[stages.index(running) + 1 :], len(queue.images)
        if not rest or rest[0].name in self._begun or jax.process_count() > 1:
            return
        tried = min(queue.place, images) - int((queue.slot_run[queue.busy] == 0).sum())
        fell = 0 if setup.stochastic else len(now.found.x_adv)
        if tried >= _LOOK_AFTER * images:
            # Of those to come as many fall as of those that were tried.
            left = max(1, round(images * (1 - fell / max(tried, fell, 1))))
            slots = setup.slots_of(left * rest[0].method.runs())
            config: Any = jax.config  # settings are those of a thread
            precision = config.jax_default_matmul_precision, config.jax_enable_x64
            task = self._pool.submit(self._compile, rest[0], slots, *precision)
            self._begun[rest[0].name] = slots, task

    def _compile(
        self, coming: versions.Stage, slots: int, precision: str | None, double: bool
    ) -> None:
        queue = Queue.new(np.arange(1), coming.method.runs(), slots)
        with jax.default_matmul_precision(precision), jax.enable_x64(double):
            stage.compiled(self._setup, coming, self._logits, queue)

    def slots(self, coming: versions.Stage, images: int) -> int:
        """Returns in how many slots to run a stage on so many images."""
        items = images * coming.method.runs()
        best = self._setup.slots_of(items)
        slots, task = self._begun.get(coming.name, (best, None))
        if task is None or _rows(items, slots) > _WASTE * _rows(items, best):
            return best
        # An error is the caller's who compiles the same.
        futures.wait([task])
        return slots


def _rows(items: int, slots: int) -> int:
    return -(-items // slots) * slots
