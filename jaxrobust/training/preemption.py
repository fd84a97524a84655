"""An end in good order when the machine is taken away: SIGTERM, SIGUSR1 and ctrl-C.

SLURM can be asked for either before a time limit (`--signal=USR1@120`).
"""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator

from jax.experimental import multihost_utils

from jaxrobust.parallel.processes import in_main_thread, several

# What a shell reports for a process that SIGTERM ended; the same for SIGUSR1.
STATUS = 128 + signal.SIGTERM
_ASKING = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):
    """Training was told to end, and has saved."""

    def __init__(self, step: int, total: int, by: signal.Signals) -> None:
        """Says after which step of how many, and by what."""
        super().__init__(
            f"stopped by {by.name} at step {step} of {total}; saved; the same command "
            "goes on from there"
        )


class Ended(BaseException):
    """A signal came where nothing waits to be saved."""


def _end(number: int, frame: object) -> None:
    name = signal.Signals(number).name
    raise Ended(f"stopped by {name}; the same command goes on from what was saved")


def end_in_words() -> None:
    """Makes SIGUSR1 end this process with a line, where `catching` does not note it."""
    if in_main_thread():
        signal.signal(signal.SIGUSR1, _end)


def end_at_once() -> None:
    """Makes SIGTERM end a process of several from now on; that of one it does anyway.

    The preemption service of jax, which joins with the other processes, takes the
    signal away from the operating system and leaves it to training to look.
    """
    if several() and in_main_thread():
        signal.signal(signal.SIGTERM, _end)


@dataclasses.dataclass
class Stop:
    """Whether training was told to end, and by what."""

    asked: bool = False
    by: signal.Signals = signal.SIGTERM
    interrupted: bool = False

    def reached(self, step: int) -> bool:
        """Says whether to save after `step` and end.

        Several processes agree on a step over jax's preemption service, which watches
        SIGTERM itself: each must ask after every step. KeyboardInterrupt is raised if
        ctrl-C was pressed and its own exception got lost.
        """
        if self.interrupted:
            raise KeyboardInterrupt
        if several():
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked


@contextlib.contextmanager
def catching() -> Iterator[Stop]:
    """Takes note of the signals for as long as the context lasts, in place of ending.

    A signal that came too late for a step to see it takes effect at the end. Only the
    main thread gets signals: in another nothing is caught.
    """
    stop = Stop()
    if not in_main_thread():
        yield stop
        return

    def note(number: int, frame: object) -> None:
        stop.asked, stop.by = True, signal.Signals(number)

    def pass_on(number: int, frame: object) -> None:
        signal.raise_signal(signal.SIGTERM)  # which the preemption service watches

    def interrupt(number: int, frame: object) -> None:
        # An exception raised inside a finaliser is printed and lost: noted as well.
        stop.interrupted = True
        raise KeyboardInterrupt

    alone = dict.fromkeys(_ASKING, note)
    handlers = {signal.SIGUSR1: pass_on} if several() else alone
    # A shell's background jobs ignore it; that stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers |= {signal.SIGINT: interrupt}
    before = {number: signal.signal(number, do) for number, do in handlers.items()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.asked:
        signal.raise_signal(stop.by)
