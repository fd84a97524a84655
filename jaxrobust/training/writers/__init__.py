"""Where the scalars of training go: metrics.jsonl always, and what a config names.

The first process alone writes. What a writer needs is imported when it is used.
"""

import contextlib
import importlib
import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from etils import epath

from jaxrobust import named_code
from jaxrobust.runtime import files
from jaxrobust.training.writers.jsonl import JsonLines

REMOTE_SECONDS = 10.0  # object stores refuse an object that changes every second


class MetricWriter(Protocol):
    """Takes rows of scalars, one per logged step, in the order of the steps."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the row of a step."""

    def flush(self) -> None:
        """Makes all rows visible to others."""

    def close(self) -> None:
        """Flushes, and ends what was begun."""


class Opening(NamedTuple):
    """What a writer starts from.

    Attributes:
      workdir: the folder of the run.
      resume_step: the step that the run goes on from. A killed run may have written
        rows after it, which it writes again.
      rows: what metrics.jsonl holds up to there, rows with a `step`.
      config: the plain config of the run; empty if it is unknown.
    """

    workdir: epath.Path
    resume_step: int
    rows: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]


class WriterKind(NamedTuple):
    """A writer of ours: where it is, and the package it needs, our extra's name."""

    place: str
    needs: str = ""


WRITERS = {
    "tensorboard": WriterKind("events:Events"),
    "csv": WriterKind("csv_file:CsvFile"),
    "wandb": WriterKind("services:open_wandb", "wandb"),
    "mlflow": WriterKind("services:open_mlflow", "mlflow"),
}


def check(names: Sequence[str]) -> None:
    """Raises ValueError for a writer whose package is missing; names the extra."""
    for name in names:
        if named_code.names(name):
            named_code.load("writer", name)
        elif (needs := WRITERS[name].needs) and not importlib.util.find_spec(needs):
            raise ValueError(
                f"`log.writers` has {name!r}, whose package is not installed: pip "
                f"install 'jaxrobust[{needs}]', or leave it out."
            )


def _open(name: str, opening: Opening) -> MetricWriter:
    if named_code.names(name):
        return named_code.load("writer", name)(opening)
    module, _, factory = WRITERS[name].place.partition(":")
    found = importlib.import_module(f"{__name__}.{module}")
    return getattr(found, factory)(opening)


class Writers(contextlib.AbstractContextManager["Writers"]):
    """Writes to metrics.jsonl of a work directory and to other writers."""

    def __init__(
        self,
        workdir: epath.PathLike,
        resume_step: int,
        names: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens them all and drops rows after `resume_step`.

        A killed run may have written rows beyond its last checkpoint, and half a line;
        the resumed run writes those steps again.
        """
        folder = epath.Path(workdir)
        self._every = REMOTE_SECONDS if files.is_remote(folder) else 0.0
        self._flushed = time.monotonic()
        with contextlib.ExitStack() as stack:
            lines = JsonLines(folder / "metrics.jsonl", resume_step)
            self._writers: list[MetricWriter] = [lines]
            stack.callback(lines.close)
            opening = Opening(folder, resume_step, lines.rows, config or {})
            for name in dict.fromkeys(names):
                writer = _open(name, opening)
                self._writers.append(writer)
                stack.callback(writer.close)
            self._stack = stack.pop_all()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds one row; others see it at once, on a remote folder after a while."""
        numbers = {key: float(value) for key, value in scalars.items()}
        for writer in self._writers:
            writer.write(step, numbers)
        if time.monotonic() - self._flushed >= self._every:
            self.flush()

    def flush(self) -> None:
        """Makes all rows visible to others."""
        for writer in self._writers:
            writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes all of them."""
        self._stack.close()

    def __exit__(self, *error: object) -> None:
        """Closes all of them."""
        self.close()
