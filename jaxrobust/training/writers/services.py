"""Weights & Biases and MLflow: a run there that follows the rows of metrics.jsonl.

A service cannot take a row back, so each is sent once: what a resumed run writes again
is the same to the bit and is left out; what was lost is made up from metrics.jsonl. A
service that stops answering never ends a training: its rows wait.
"""

import collections
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict

from jaxrobust.runtime import files, reading
from jaxrobust.training.writers import Opening

_BATCH = 100  # parameters that MLflow takes at a time
_LONGEST = 500  # characters of a parameter
# Before a service that took nothing is asked again: an answer may be long in coming.
_PAUSE = 60.0


class Client(Protocol):
    """A run of a service; `last` is the step of the newest row that it has."""

    last: int

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends a row."""

    def close(self) -> None:
        """Ends the run."""


class Service:
    """Sends each row once; keeps those that the service does not take."""

    def __init__(self, name: str, client: Client, opening: Opening) -> None:
        """Sends the rows of metrics.jsonl that the service lacks."""
        self._name, self._client, self._warned = name, client, False
        self._quiet_until = 0.0
        self._waiting: collections.deque[tuple[int, Mapping[str, float]]]
        self._waiting = collections.deque()
        for row in opening.rows:
            self.write(row["step"], {k: v for k, v in row.items() if k != "step"})
        self.flush()

    def write(self, step: int, scalars: Mapping[str, float | None]) -> None:
        """Takes a row, unless it was sent before."""
        newest = self._waiting[-1][0] if self._waiting else self._client.last
        if step > newest:
            known = {k: v for k, v in scalars.items() if v is not None}
            self._waiting.append((step, known))

    def flush(self) -> None:
        """Sends what waits, but for a while after the service took nothing."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            while self._waiting:
                self._client.send(*self._waiting[0])
                self._waiting.popleft()
        except Exception as error:  # of the network, of the service: many kinds
            if not self._warned:
                told = f"{type(error).__name__}: {error}".splitlines()[0]
                kept = "its rows wait, and stand in metrics.jsonl"
                logging.warning("%s takes nothing (%s); %s.", self._name, told, kept)
            self._warned = True
            self._quiet_until = time.monotonic() + _PAUSE

    def close(self) -> None:
        """Sends what waits and ends the run; what is left is sent by the next start."""
        self._warned, self._quiet_until = False, 0.0  # ask and say it again at the end
        self.flush()
        try:
            self._client.close()
        except Exception as error:
            logging.warning("%s: the run was not ended (%s).", self._name, error)


def open_wandb(opening: Opening) -> Service:
    """Opens a run of Weights & Biases.

    Account, server and mode are its own variables' (WANDB_MODE=offline writes into the
    folder `wandb` of the work directory, for `wandb sync` to send later).
    """
    return Service("wandb", _opened("wandb", _Wandb, opening), opening)


class _Wandb:
    """Steps are W&B's own, so that it merges what is sent twice."""

    def __init__(self, opening: Opening) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._path = opening.workdir / "wandb.json"
        self._state = _state(self._path) or {"id": secrets.token_hex(8), "last": 0}
        self.last: int = self._state["last"]
        config = opening.config
        self._run = wandb.init(
            project=_project(opening),
            name=config.get("name") or None,
            id=self._state["id"],
            resume="allow",
            config=dict(config),
            dir=None if files.is_remote(opening.workdir) else str(opening.workdir),
            settings=wandb.Settings(console="off", silent=True),
        )
        files.write_json(self._path, self._state)

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)
        self.last = step
        files.write_json(self._path, self._state | {"last": step})

    def close(self) -> None:
        self._run.finish()


def open_mlflow(opening: Opening) -> Service:
    """Opens a run of MLflow: on the server of MLFLOW_TRACKING_URI, else in `mlruns`."""
    return Service("mlflow", _opened("mlflow", _Mlflow, opening), opening)


class _Mlflow:
    """The run of a work directory on a tracking server or in its folder."""

    def __init__(self, opening: Opening) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        where = os.environ.get("MLFLOW_TRACKING_URI")
        if not where and files.is_remote(opening.workdir):
            raise ValueError(
                "the writer mlflow needs MLFLOW_TRACKING_URI where the work directory "
                f"is remote, {opening.workdir}."
            )
        if not where:
            # MLflow wants to be told that one knows of its data bases.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            where = pathlib.Path(opening.workdir, "mlruns").absolute().as_uri()
        self._client = MlflowClient(where)
        path = opening.workdir / "mlflow.json"
        state = _state(path) or self._create(opening)
        files.write_json(path, state)
        self._id, self.last = str(state["id"]), 0
        self._client.update_run(self._id, status="RUNNING")
        if "step" in self._client.get_run(self._id).data.metrics:
            sent = self._client.get_metric_history(self._id, "step")
            self.last = max((one.step for one in sent), default=0)

    def _create(self, opening: Opening) -> dict[str, Any]:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        project, client = _project(opening), self._client
        found = client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else client.create_experiment(project)
        run = client.create_run(experiment, run_name=opening.config.get("name") or None)
        flat = flatten_dict(dict(opening.config), sep=".")
        params = [Param(k, str(v)[:_LONGEST]) for k, v in flat.items()]
        for i in range(0, len(params), _BATCH):
            client.log_batch(run.info.run_id, params=params[i : i + _BATCH])
        return {"id": run.info.run_id}

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(1000 * time.time())
        # The step itself is the last: where it stands, all of the row does.
        found = {**scalars, "step": float(step)}
        metrics = [Metric(key, value, now, step) for key, value in found.items()]
        self._client.log_batch(self._id, metrics=metrics)
        self.last = step

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _opened(name: str, make: Callable[[Opening], Client], opening: Opening) -> Client:
    """Opens a run; what a service says against it is told in a line."""
    try:
        return make(opening)
    except (ValueError, OSError):
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:500]
        raise OSError(
            f"the writer {name} cannot be opened ({told}); leave it out of log.writers "
            "to go on without it, it gets the rows of metrics.jsonl later."
        ) from error


def _project(opening: Opening) -> str:
    return opening.config.get("log", {}).get("project", "jaxrobust")


def _state(path: epath.Path) -> dict[str, Any] | None:
    """Reads which run of a service is this folder's; None if there is none."""
    try:
        found = reading.read_json(path, kind=dict)
    except FileNotFoundError:
        return None
    return found if isinstance(found.get("id"), str) else None
