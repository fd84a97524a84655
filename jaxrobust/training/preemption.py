"""An end in good order when the machine is taken away: SIGTERM."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

STATUS = 128 + signal.SIGTERM  # what a shell reports for a process that SIGTERM ended


class Stopped(Exception):
    """Training was told to end, and has saved."""

    def __init__(self, step: int, total: int) -> None:
        """Says after which step of how many."""
        super().__init__(
            f"stopped by SIGTERM at step {step} of {total}; saved; the same command "
            "goes on from there"
        )


class Ended(BaseException):
    """SIGTERM came where nothing waits to be saved."""

    def __init__(self) -> None:
        """Says so."""
        super().__init__(
            "stopped by SIGTERM; the same command goes on from what was saved"
        )


def end_at_once() -> None:
    """Makes SIGTERM end a process of several from now on; that of one it does anyway.

    The preemption service of jax, which joins with the other processes, takes the
    signal away from the operating system and leaves it to training to look.
    """

    def end(number: int, frame: object) -> None:
        raise Ended

    main = threading.current_thread() is threading.main_thread()
    if jax.process_count() > 1 and main:
        signal.signal(signal.SIGTERM, end)


@dataclasses.dataclass
class Stop:
    """Whether training was told to end."""

    asked: bool = False

    def reached(self, step: int) -> bool:
        """Says whether to save after `step` and end.

        Several processes agree on a step over jax's preemption service, which watches
        SIGTERM itself: each must ask after every step.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked


@contextlib.contextmanager
def catching() -> Iterator[Stop]:
    """Takes note of SIGTERM for as long as the context lasts, in place of ending.

    A signal that came too late for a step to see it takes effect at the end. Only the
    main thread gets signals: in another nothing is caught.
    """
    stop = Stop()
    alone = jax.process_count() == 1
    if not alone or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: object) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
    if stop.asked:
        signal.raise_signal(signal.SIGTERM)
