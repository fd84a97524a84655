"""What lies in a work directory, read for the report; any of it may be missing."""

import dataclasses
import io
import json
from typing import Any

import numpy as np
from etils import epath


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of one work directory.

    Attributes:
      config: of the run, empty if unknown.
      command: that made the run.
      metrics: rows of metrics.jsonl.
      results: of the evaluation, or None before one.
      arrays: of evaluation.npz.
      twin: the same of the twin network, or None.
    """

    config: dict[str, Any]
    command: str
    metrics: list[dict[str, Any]]
    results: dict[str, Any] | None
    arrays: dict[str, np.ndarray]
    twin: "Source | None"

    @property
    def objective(self) -> str:
        """Names what the network was trained with."""
        return self.config.get("objective", {}).get("name", "another objective")


def read(workdir: epath.PathLike, *, twin: bool = True) -> Source:
    """Reads a work directory.

    Raises:
      FileNotFoundError: if it holds nothing to report.
    """
    folder = epath.Path(workdir)
    saved = _json(folder / "config.json") or {}
    source = Source(
        config=saved.get("config", {}),
        command=saved.get("command", ""),
        metrics=_lines(folder / "metrics.jsonl"),
        results=_json(folder / "results.json"),
        arrays=_arrays(folder / "evaluation.npz"),
        twin=read(folder / "twin", twin=False) if twin and _has(folder) else None,
    )
    if twin and not (saved or source.metrics or source.results):
        raise FileNotFoundError(
            f"{folder} has no config.json, metrics.jsonl or results.json to report; "
            "give the --workdir of a run."
        )
    return source


def _has(folder: epath.Path) -> bool:
    return (folder / "twin").is_dir()


def _json(path: epath.Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _lines(path: epath.Path) -> list[dict[str, Any]]:
    """Reads JSON lines up to the first that a crash cut short."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _arrays(path: epath.Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)
