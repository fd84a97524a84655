"""Metrics: JSON lines, TensorBoard events, and the check for non-finite values."""

import contextlib
import json
import math
import pathlib
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from jaxrobust import parallel
from jaxrobust.results.files import read_metrics
from jaxrobust.runtime import files
from jaxrobust.training import nonfinite

REMOTE_SECONDS = 10.0  # object stores refuse an object that changes every second
# Made by protobuf at import, where a type checker cannot see them.
_Event: Any = getattr(event_pb2, "Event")  # noqa: B009
_SessionLog: Any = getattr(event_pb2, "SessionLog")  # noqa: B009


class MetricWriter(contextlib.AbstractContextManager["MetricWriter"]):
    """Writes scalars to `metrics.jsonl` and TensorBoard events of a work directory."""

    def __init__(self, workdir: epath.PathLike, resume_step: int) -> None:
        """Opens the files and drops rows after `resume_step`.

        A killed run may have written rows beyond its last checkpoint, and half a line;
        the resumed run writes those steps again.
        """
        path = epath.Path(workdir) / "metrics.jsonl"
        rows = [row for row in read_metrics(path) if row["step"] <= resume_step]
        self._path = path
        self._text = "".join(json.dumps(row) + "\n" for row in rows)
        files.write_text(path, self._text)
        # A remote file can only be written as a whole.
        self._file = None if files.is_remote(path) else files.append_to(path)
        self._every = 0.0 if self._file else REMOTE_SECONDS
        self._flushed = time.monotonic()
        self._events = _Events(path.parent / "tensorboard", resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one row; others see it at once, on a remote folder after a while."""
        numbers = {k: float(v) for k, v in values.items()}
        line = json.dumps({"step": step, **numbers}) + "\n"
        if self._file:
            self._file.write(line)
        else:
            self._text += line
        self._events.add(step, {k: v for k, v in values.items() if k != "epoch"})
        if time.monotonic() - self._flushed >= self._every:
            self.flush()

    def flush(self) -> None:
        """Makes all rows visible to others."""
        if self._file:
            self._file.flush()
        else:
            files.write_text(self._path, self._text)
        self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes both files."""
        with contextlib.closing(self._events), self._file or contextlib.nullcontext():
            if not self._file:  # the others flush as they are closed
                files.write_text(self._path, self._text)

    def __exit__(self, *error: object) -> None:
        """Closes both files."""
        self.close()


class _Events:
    """TensorBoard events, written without a thread so that a full disk is an error.

    A remote folder gets a copy of a file in a temporary folder.
    """

    def __init__(self, folder: epath.Path, first_step: int) -> None:
        """Opens a new file; other files' events from `first_step` on are hidden."""
        self._folder = folder
        remote = files.is_remote(folder)
        self._temporary = tempfile.TemporaryDirectory() if remote else None
        local = self._temporary.name if self._temporary else folder
        self._local = pathlib.Path(files.own_folder(local))
        # Two files of one second would have one name but for the step; nobody can
        # guess the last part and put a link there.
        name = f"{int(time.time())}.{socket.gethostname()}.{first_step}"
        name += f".{secrets.token_hex(8)}"
        self._writer = RecordWriter(str(self._local / f"events.out.tfevents.{name}"))
        self._add(_Event(file_version="brain.Event:2"))
        start = _SessionLog(status=_SessionLog.START)
        self._add(_Event(step=first_step, session_log=start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._add(_Event(step=step, summary=summary.scalar(name, float(value))))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        self._writer.flush()
        if self._temporary:
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in self._local.iterdir():
                files.write_bytes(self._folder / file.name, file.read_bytes())

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._writer.close()
            if self._temporary:
                self._temporary.cleanup()


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
