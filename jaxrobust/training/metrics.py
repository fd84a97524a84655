"""Metrics: JSON lines, TensorBoard events, and the check for non-finite values."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
from etils import epath

from jaxrobust import parallel
from jaxrobust.results import files as stored
from jaxrobust.runtime import files
from jaxrobust.training import nonfinite
from jaxrobust.training.events import Events

REMOTE_SECONDS = 10.0  # object stores refuse an object that changes every second


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and TensorBoard events of a work directory."""

    def __init__(self, workdir: epath.PathLike, resume_step: int) -> None:
        """Opens the files and drops rows after `resume_step`.

        A killed run may have written rows beyond its last checkpoint, and half a line;
        the resumed run writes those steps again.
        """
        path = epath.Path(workdir) / "metrics.jsonl"
        rows = [row for row in read(path) if row["step"] <= resume_step]
        self._path = path
        self._text = "".join(json.dumps(row) + "\n" for row in rows)
        files.write_text(path, self._text)
        # A remote file can only be written as a whole.
        self._file = None if files.is_remote(path) else files.append_to(path)
        self._every = 0.0 if self._file else REMOTE_SECONDS
        self._flushed = time.monotonic()
        self._events = Events(path.parent / "tensorboard", resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one row; others see it at once, on a remote folder after a while."""
        row = {"step": step, **{k: float(v) for k, v in values.items()}}
        line = json.dumps(row) + "\n"
        if self._file:
            self._file.write(line)
        else:
            self._text += line
        self._events.add(step, {k: v for k, v in values.items() if k != "epoch"})
        if time.monotonic() - self._flushed >= self._every:
            self.flush()

    def flush(self) -> None:
        """Makes all rows visible to others."""
        self._flush_rows()
        self._events.flush()
        self._flushed = time.monotonic()

    def _flush_rows(self) -> None:
        if self._file:
            self._file.flush()
        else:
            files.write_text(self._path, self._text)

    def close(self) -> None:
        """Flushes and closes both files."""
        with contextlib.closing(self._events), self._file or contextlib.nullcontext():
            self._flush_rows()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes both files."""
        self.close()


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads a metrics file; what is no row (cut short by a crash) is left out."""
    return stored.read_metrics(path)


def fetch(
    row: Mapping[str, jax.Array], step: int, *, skip: int = 0
) -> Mapping[str, Any]:
    """Fetches the device scalars of one step, once it is done, and looks at them.

    Raises:
      FloatingPointError: as `fetch_mean`.
    """
    found = parallel.to_host(dict(row))
    _is_made(found, step, skip)
    return found


def fetch_mean(
    history: Sequence[Mapping[str, Any]], last_step: int, *, skip: int = 0
) -> dict[str, float]:
    """Fetches the metrics of the last steps and averages them.

    Args:
      history: one dictionary of scalars per step, oldest first, on the devices or the
        host. Where a step has `skipped` (`nonfinite.dropping`), it is the number of
        updates dropped in a row.
      last_step: the step after the newest of them.
      skip: how many updates in a row may be dropped.

    Returns:
      The means over the updates that were made; `skipped` is how many were not.

    Raises:
      FloatingPointError: naming the first step and metric that is not finite.
    """
    values: Any = parallel.to_host(list(history))
    first = last_step - len(values)
    made = [
        row for step, row in enumerate(values, first + 1) if _is_made(row, step, skip)
    ]
    names = [k for k in values[0] if k != "skipped"]
    means = {k: float(np.mean([row[k] for row in made])) for k in names if made}
    if skip:
        means["skipped"] = float(len(values) - len(made))
    return means


def _is_made(row: Mapping[str, Any], step: int, skip: int) -> bool:
    """Says whether an update was made; raises where it is not to be passed over."""
    dropped = int(row.get("skipped", 0))
    if 0 < dropped <= skip:
        return False
    bad = [f"metric {k!r} is {v}" for k, v in row.items() if not math.isfinite(v)]
    if bad or dropped:  # an update may overflow where all metrics are finite
        what = bad[0] if bad else "the update is not finite"
        streak = f", number {dropped} in a row" if dropped else ""
        raise FloatingPointError(f"{what} at step {step}{streak}; {nonfinite.ADVICE}")
    return True
