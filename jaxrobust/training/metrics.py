"""Metrics: JSON lines, TensorBoard events, and the check for non-finite values."""

import json
import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import jax
import numpy as np
from etils import epath
from tensorboardX import SummaryWriter

from jaxrobust import parallel


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and TensorBoard events of a work directory."""

    def __init__(self, workdir: epath.PathLike, resume_step: int) -> None:
        """Opens the files and drops rows after `resume_step`.

        A killed run may have written rows beyond its last checkpoint, and half a line;
        the resumed run writes those steps again.
        """
        self._path = epath.Path(workdir) / "metrics.jsonl"
        rows = [row for row in read(self._path) if row["step"] <= resume_step]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        temporary = self._path.parent / ".metrics.jsonl.tmp"
        temporary.write_text(text)
        temporary.replace(self._path)
        self._file = self._path.open("a")
        self._events = SummaryWriter(
            str(epath.Path(workdir) / "tensorboard"), purge_step=resume_step + 1
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one row and flushes it."""
        row = {"step": step, **{k: float(v) for k, v in values.items()}}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            if name != "epoch":
                self._events.add_scalar(name, float(value), step)
        self._events.flush()

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> "MetricWriter":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes both files."""
        self.close()


class NoMetrics:
    """Takes metrics and writes nothing: the lead process of a run writes them."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def __enter__(self) -> "NoMetrics":
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Does nothing."""


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads a metrics file; a last line cut short by a crash is left out."""
    path = epath.Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def fetch_mean(
    history: Sequence[Mapping[str, jax.Array]], last_step: int
) -> dict[str, float]:
    """Fetches the metrics of the last steps and averages them.

    Args:
      history: one dictionary of device scalars per step, oldest first.
      last_step: the step after the newest of them.

    Raises:
      FloatingPointError: naming the first step and metric that is not finite.
    """
    values: Any = parallel.to_host(list(history))
    first = last_step - len(values)
    for offset, row in enumerate(values):
        for name, value in row.items():
            if not math.isfinite(value):
                step = first + offset + 1
                raise FloatingPointError(
                    f"metric {name!r} is {value} at step {step}; start again in "
                    "another --workdir with a lower config.optimizer.learning_rate, "
                    "or with config.optimizer.clip_norm. Checkpoints are kept."
                )
    return {k: float(np.mean([row[k] for row in values])) for k in values[0]}
