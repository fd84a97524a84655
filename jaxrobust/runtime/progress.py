"""Progress of long work: a bar in a terminal, a line now and then in a log file."""

import io
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

_EVERY_S = 30.0  # between lines in a log


class Progress:
    """Shows how far a piece of work is, its rate and when it will end.

    In a terminal one line is redrawn; elsewhere a full line is printed now and then, so
    a log stays readable.
    """

    def __init__(
        self,
        total: int,
        name: str,
        *,
        done: int = 0,
        unit: str = "step",
        shown: bool = True,
    ) -> None:
        """Starts at `done` of `total`; shows nothing unless `shown`."""
        self._stream = sys.stderr if shown else io.StringIO()
        self._terminal = self._stream.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=name,
            unit=unit,
            file=self._stream,
            dynamic_ncols=self._terminal,
            disable=not self._terminal,
        )
        self._total, self._done, self._name = total, done, name
        self._first, self._values = done, ""
        self._begin = self._printed = time.monotonic()

    def update(self, steps: int = 1, values: Mapping[str, float] | None = None) -> None:
        """Adds finished steps and, where given, the latest values to show."""
        self._done += steps
        if values:
            self._values = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
        if self._terminal:
            self._bar.set_postfix_str(self._values, refresh=False)
            self._bar.update(steps)
        elif time.monotonic() - self._printed >= _EVERY_S:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        text = f"{self._name}: {self._done}/{self._total}"
        if self._done > self._first:
            passed = max(self._printed - self._begin, 1e-9)
            rate = (self._done - self._first) / passed
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

    def __init__(self, unit: str = "image") -> None:
        """Shows nothing until the first stage reports."""
        self._unit, self._label, self._done = unit, "", 0
        self._shown: Progress | None = None

    def update(
        self, done: int, total: int, label: str, values: Mapping[str, float]
    ) -> None:
        """Says that `done` of `total` of the stage `label` are through."""
        if self._shown is None or label != self._label or done < self._done:
            self.close()
            # The first report comes when work is done: time runs from there.
            self._shown = Progress(total, label, done=done, unit=self._unit)
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
