"""The training loop: restore, step, validate, save."""

import collections
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array

from jaxrobust import checkpoints, parallel
from jaxrobust.evaluation import out_of_memory
from jaxrobust.evaluation.progress import Progress
from jaxrobust.parallel import processes
from jaxrobust.training import (
    layout,
    nonfinite,
    optimizer,
    preemption,
    state,
)
from jaxrobust.training.metrics import MetricWriter, NoMetrics, fetch_mean
from jaxrobust.training.setup import Run, build


def train(config: Mapping[str, Any], workdir: epath.PathLike, mesh: Mesh) -> None:
    """Trains from the last checkpoint of `workdir` (or from the start) to the end.

    Args:
      config: a plain dictionary with the fields of `config.base()`.
      workdir: gets `checkpoints/`, `metrics.jsonl` and TensorBoard events.
      mesh: the devices.

    Raises:
      FloatingPointError: if a metric is not finite; the last checkpoint is kept.
      MemoryError: if the devices have too little memory; says what to try.
      OSError: if something cannot be written.
      preemption.Stopped: after SIGTERM; the state is saved.
    """
    checkpointer = checkpoints.Checkpointer(workdir)
    with _explained(config, mesh):
        run = build(config, mesh, resumed=checkpointer.started)
    restored = checkpointer.restore(run.state)
    if restored is not None:
        run.state = restored
    start = int(run.state.step)
    lead = processes.is_lead()
    if start and lead:
        logging.warning(
            "resuming %s at step %d of %d%s",
            workdir,
            start,
            run.plan.total,
            layout.told(checkpointer.layout(start), run.layout),
        )
    if start >= run.plan.total or _out_of_patience(run.state, config):
        checkpointer.close()
        return
    progress = Progress(
        run.plan.total, config["name"] or "train", done=start, shown=lead
    )
    metrics = MetricWriter(workdir, start) if lead else NoMetrics()
    memory = _explained(config, mesh)
    with preemption.catching() as stop, metrics as writer, memory:
        try:
            _loop(run, config, start, checkpointer, writer, progress, stop)
        finally:
            progress.close()
            run.source.close()
            checkpointer.close()
    checkpoints.verify(workdir)


def _explained(
    config: Mapping[str, Any], mesh: Mesh
) -> contextlib.AbstractContextManager[None]:
    """Tells what to try where the devices run out of memory."""
    parts = config["train"]["accumulate"]
    return out_of_memory.explained(
        "--config.train.batch_size",
        config["train"]["batch_size"],
        parts * mesh.size,
        f"with the same batch --config.train.accumulate={2 * parts} (each in another "
        "--workdir), or --config.train.remat=True or --config.data.feed=stream",
    )


def _loop(
    run: Run,
    config: Mapping[str, Any],
    start: int,
    checkpointer: checkpoints.Checkpointer,
    writer: MetricWriter | NoMetrics,
    progress: Progress,
    stop: preemption.Stop,
) -> None:
    skip = config["train"]["skip_nonfinite"]
    plan, batch_size = run.plan, config["train"]["batch_size"]
    history: collections.deque[dict[str, Array]] = collections.deque()
    begin, shown = time.monotonic(), {}
    for number, batch in enumerate(run.source.batches(start, plan.total), start + 1):
        run.state, metrics = run.step(run.state, batch, run.key)
        history.append(metrics)
        # The host may run ahead of the device by two steps, so that the display and a
        # signal are never far behind.
        if len(history) > 2:
            jax.block_until_ready(history[-3]["loss"])
        validated: dict[str, float] = {}
        if plan.due(number, plan.validate):
            validated = run.validate(run.state.variables)
            run.state = _after_validation(run.state, config, validated, run.mesh)
        if plan.due(number, plan.log) or validated:
            row = fetch_mean(history, number, skip=skip)
            row["images_per_second"] = (
                len(history) * batch_size / (time.monotonic() - begin)
            )
            row |= {f"validation/{k}": v for k, v in validated.items()}
            writer.write(number, {"epoch": number / plan.steps_per_epoch, **row})
            shown |= _shown(row)
            history.clear()
        progress.update(1, shown)
        stopping = stop.reached(number)
        if validated or stopping or number % plan.save == 0:
            # Never save a broken state.
            fetch_mean(history or [metrics], number, skip=skip)
            nonfinite.check_state(run.state)
            writer.flush()
            checkpointer.save(
                number, run.state, run.state.variables, config, validated, run.layout
            )
        if not history:
            begin = time.monotonic()
        if stopping:
            raise preemption.Stopped(number, plan.total)
        if validated and _out_of_patience(run.state, config):
            logging.warning("stopped early at step %d of %d", number, plan.total)
            return
    if stop.reached(plan.total + 1):
        raise preemption.Stopped(plan.total, plan.total)


def _shown(row: Mapping[str, float]) -> dict[str, float]:
    """Picks the values that the progress display shows."""
    names = {
        "loss": "loss",
        "accuracy": "batch clean",
        "robust_accuracy": "batch robust",
        "validation/accuracy": "clean",
        "validation/robust_accuracy": "robust",
    }
    return {short: row[name] for name, short in names.items() if name in row}


def _after_validation(
    current: state.TrainState,
    config: Mapping[str, Any],
    validated: dict[str, float],
    mesh: Mesh,
) -> state.TrainState:
    """Moves the plateau schedule and the patience of early stopping."""
    schedule = config["schedule"]
    plateau, patience = parallel.to_host((current.plateau, current.patience))
    patience = optimizer.update_patience(patience, jnp.float32(validated["accuracy"]))
    if schedule["name"] == "plateau":
        plateau = optimizer.update_plateau(
            plateau,
            jnp.float32(validated["loss"]),
            schedule["factor"],
            schedule["patience"],
        )
    plateau, patience = parallel.replicate(mesh, (plateau, patience))
    return current.replace(plateau=plateau, patience=patience)


def _out_of_patience(current: state.TrainState, config: Mapping[str, Any]) -> bool:
    """Says whether early stopping ends the run."""
    patience = config["train"]["early_stop"]
    return bool(patience) and int(current.patience.waited) >= patience
