"""Progress of long work: a bar in a terminal, a line now and then in a log file."""

import io
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm


class Progress:
    """Shows how far a piece of work is, its rate and when it will end.

    In a terminal one line is redrawn; elsewhere a full line is printed at most every
    `every` seconds, so a log stays readable.
    """

    def __init__(
        self,
        total: int,
        name: str,
        *,
        done: int = 0,
        unit: str = "step",
        stream: TextIO | None = None,
        every: float = 30.0,
        shown: bool = True,
    ) -> None:
        """Starts at `done` of `total`; shows nothing unless `shown`."""
        self._stream = (stream or sys.stderr) if shown else io.StringIO()
        self._terminal = self._stream.isatty()
        self._every, self._printed = every, time.monotonic()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=name,
            unit=unit,
            file=self._stream,
            dynamic_ncols=self._terminal,
            disable=False if self._terminal else None,
        )
        self._total, self._done, self._name = total, done, name
        self._first, self._begin, self._values = done, time.monotonic(), ""

    def update(self, steps: int = 1, values: Mapping[str, float] | None = None) -> None:
        """Adds finished steps and, where given, the latest values to show."""
        self._done += steps
        if values:
            self._values = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
        if self._terminal:
            self._bar.set_postfix_str(self._values, refresh=False)
            self._bar.update(steps)
        elif time.monotonic() - self._printed >= self._every:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        passed = self._printed - self._begin
        text = f"{self._name}: {self._done}/{self._total}"
        if self._done > self._first:
            rate = (self._done - self._first) / max(passed, 1e-9)
            left = tqdm.format_interval((self._total - self._done) / rate)
            text += f"  {rate:.3g}/s  left {left}"
        text += f"  {self._values}" if self._values else ""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the bar, or prints a last line."""
        if not self._terminal:
            self._print()
        self._bar.close()


class StageProgress:
    """The same display for work in named stages (`evaluation` reports to it)."""

    def __init__(self, unit: str = "image", every: float = 30.0) -> None:
        """Shows nothing until the first stage reports."""
        self._unit, self._every = unit, every
        self._label, self._done = "", 0
        self._shown: Progress | None = None

    def update(
        self, done: int, total: int, label: str, values: Mapping[str, float]
    ) -> None:
        """Says that `done` of `total` of the stage `label` are through."""
        if self._shown is None or label != self._label or done < self._done:
            self.close()
            # The first report comes when work is done: time runs from there.
            unit, every = self._unit, self._every
            self._shown = Progress(total, label, done=done, unit=unit, every=every)
            self._label, self._done = label, done
        self._shown.update(done - self._done, values)
        self._done = done
        if done >= total:
            self.close()

    def close(self) -> None:
        """Ends the stage that is shown."""
        if self._shown is not None:
            self._shown.close()
            self._shown = None
