"""What lies in a work directory, read for the report; any of it may be missing."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from jaxrobust.results import Results
from jaxrobust.results import files as stored
from jaxrobust.runtime import files

Arrays = Mapping[str, np.ndarray]
_Found = TypeVar("_Found")


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of one work directory: config and results of a run, and its twin's."""

    results: Results | None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    command: str = ""
    metrics: Sequence[Mapping[str, Any]] = ()
    arrays: Arrays = dataclasses.field(default_factory=dict)
    twin: "RunFiles | None" = None
    folder: str = ""

    @property
    def evaluation_command(self) -> str:
        """What made the results; of results of before, what made the run."""
        evaluated = self.results and self.results.evaluated
        return (evaluated and evaluated.command) or self.command

    @property
    def trained_since(self) -> str:
        """Says where the results are of the network before its last training."""
        evaluated = self.results.evaluated if self.results else None
        return stored.trained_since(evaluated, self.metrics)

    @property
    def objective(self) -> str:
        """Names what the network was trained with."""
        return self.config.get("objective", {}).get("name", "another objective")


def read(
    workdir: epath.PathLike, *, twin: bool = True, arrays: bool = True
) -> RunFiles:
    """Reads a work directory; says what is damaged, or that there is nothing.

    The `twin` beside it is left out on request, and so are the `arrays` of all images.
    """
    folder = files.expand(workdir)
    saved = _read(stored.read_config, folder / "config.json")
    config, command = saved or ({}, "")
    has_twin = twin and (folder / "twin").is_dir()
    source = RunFiles(
        config=config,
        command=command,
        metrics=stored.read_metrics(folder / "metrics.jsonl"),
        results=_read(stored.read_results, folder / "results.json"),
        arrays=(arrays and _read(stored.read_arrays, folder / "evaluation.npz")) or {},
        twin=read(folder / "twin", twin=False, arrays=arrays) if has_twin else None,
        folder=os.fspath(folder),
    )
    if twin and not (saved or source.metrics or source.results):
        raise FileNotFoundError(
            f"{folder} has no config.json, metrics.jsonl or results.json to report; "
            "give the --workdir of a run."
        )
    return source


def _read(reader: Callable[[epath.Path], _Found], path: epath.Path) -> _Found | None:
    try:
        return reader(path)
    except FileNotFoundError:
        return None
