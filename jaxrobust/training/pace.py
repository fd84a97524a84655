"""What the first steps of a run say of all of it."""

import time

import jax

# Steps that are waited for (the first compiles), and that are timed after them.
_UNTIMED, _TIMED = 2, 3
_DAY = 24 * 60 * 60


class Pace:
    """Foretells on a CPU, once, that a run would take more than a day."""

    def __init__(self, start: int, total: int, name: str) -> None:
        """Takes the steps that are done, those of the whole run, and its config's name.

        Accelerators are left alone: days are what papers' settings take there.
        """
        self._first, self._total, self._name = start + _UNTIMED, total, name
        self._on_cpu = jax.local_devices()[0].platform == "cpu"
        self._begin = 0.0

    def finished(self, step: int) -> str:
        """Is told of each step that has ended; returns what to say, mostly ''."""
        if not self._on_cpu or step not in (self._first, self._first + _TIMED):
            return ""
        now = time.monotonic()
        if step == self._first:
            self._begin = now
            return ""
        seconds = (now - self._begin) / _TIMED
        return told(seconds, self._total - step, self._name)


def told(seconds: float, left: int, name: str) -> str:
    """Returns what to say of so many steps of so many seconds; '' for under a day."""
    days = seconds * left / _DAY
    if days <= 1:
        return ""
    return (
        f"at {seconds:.3g} s for a step, the {left} steps that are left take "
        f"{days:.3g} days on this CPU. The argument budget=cpu, as in "
        f"--config {name or 'NAME'}:budget=cpu with another --workdir, cuts the same "
        "method down to minutes on two cores: a narrower network and few epochs, whose "
        "numbers show that it trains and what attacks leave, not how good the method "
        "is (docs/results.md)"
    )
