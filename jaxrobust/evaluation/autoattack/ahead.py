"""The next stage of AutoAttack, compiled in a thread while one runs."""

from concurrent import futures
from typing import Any

import jax
import numpy as np

from jaxrobust.attacks import autoattack_versions as versions
from jaxrobust.evaluation.autoattack import stage
from jaxrobust.evaluation.autoattack.queue import Queue
from jaxrobust.evaluation.autoattack.setup import Setup

# Share of the images that have been tried when it is foretold how many will be left.
_LOOK_AFTER = 1 / 2


class Ahead:
    """Compiles, and decides nothing: a stage compiles as if there were no thread.

    It finds what the thread has left with `stepping.build`, if that was made for as
    many slots. What was made under other settings of JAX is not found either.
    """

    def __init__(self, setup: Setup, logits: np.ndarray) -> None:
        """Takes what `stage.compiled` takes; ends its thread with the block."""
        self._setup, self._logits = setup, logits
        self._pool = futures.ThreadPoolExecutor(1)
        self._begun: dict[str, futures.Future[Any]] = {}

    def __enter__(self) -> "Ahead":
        """Starts."""
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for the program that is being compiled, if any."""
        self._pool.shutdown(cancel_futures=True)

    def look(self, running: versions.Stage, now: stage.StageState) -> None:
        """Begins with the stage after `running` once its slots can be foretold."""
        stages, setup, queue = self._setup.plan.stages, self._setup, now.queue
        rest, images = stages[stages.index(running) + 1 :], len(queue.images)
        # Of a model whose program is not kept nothing would be found.
        useful = setup.second_look.model.keep and jax.process_count() == 1
        if not useful or not rest or rest[0].name in self._begun:
            return
        flying = int((queue.slot_run[queue.busy] == 0).sum())
        waiting = images - min(queue.place, images)
        tried = images - waiting - flying
        if tried < _LOOK_AFTER * images:
            return
        fell = 0 if setup.stochastic else len(now.found.x_adv)
        # Of those to come as many stand as of those that were tried; what is in the
        # slots has not fallen yet.
        stand = max(tried - fell, 0)
        left = stand + flying + round(waiting * stand / tried)
        if left:
            slots = setup.slots_of(left * rest[0].method.runs())
            config: Any = jax.config  # settings are those of a thread
            precision = config.jax_default_matmul_precision, config.jax_enable_x64
            task = self._pool.submit(self._compile, rest[0], slots, *precision)
            self._begun[rest[0].name] = task

    def _compile(
        self, coming: versions.Stage, slots: int, precision: str | None, double: bool
    ) -> None:
        queue = Queue.new(np.arange(1), coming.method.runs(), slots)
        with jax.default_matmul_precision(precision), jax.enable_x64(double):
            stage.compiled(self._setup, coming, self._logits, queue)

    def wait(self, coming: versions.Stage) -> None:
        """Waits until a stage is compiled, so that the model is traced once at a time.

        An error is told by the caller's own compilation.
        """
        task = self._begun.get(coming.name)
        if task is not None and not task.cancel():
            futures.wait([task])
