"""The training loop: restore, step, validate, save."""

import collections
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging
from etils import epath
from jax.sharding import Mesh

from jaxrobust import checkpoints, parallel
from jaxrobust.evaluation import flags
from jaxrobust.parallel import processes
from jaxrobust.runtime import out_of_memory
from jaxrobust.runtime.progress import Progress
from jaxrobust.runtime.workdir import EXTENDED, differences, told
from jaxrobust.training import nonfinite, optimizer, preemption, splits
from jaxrobust.training.config import base
from jaxrobust.training.metrics import fetch_mean
from jaxrobust.training.overfitting import Watch
from jaxrobust.training.pace import Pace
from jaxrobust.training.setup import Run, build
from jaxrobust.training.writers import MetricWriter, Writers

# What the progress display shows of a row of metrics, under which name.
_SHOWN = {
    "loss": "loss",
    "accuracy": "batch clean",
    "robust_accuracy": "batch robust",
    "validation/accuracy": "clean",
    "validation/robust_accuracy": "robust",
}


def train(
    config: Mapping[str, Any],
    workdir: epath.PathLike,
    mesh: Mesh,
    *,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Trains from the last checkpoint of `workdir` (or from the start) to the end.

    Args:
      config: a plain dictionary with the fields of `config.base()`.
      workdir: gets `checkpoints/`, `metrics.jsonl` and what `log.writers` leave.
      mesh: the devices.
      on_start: called once all is built and restored, before the first step.

    Raises:
      FloatingPointError: if a metric is not finite, at its step; the last checkpoint is
        kept.
      MemoryError: if the devices have too little memory; says what to try.
      OSError: if something cannot be written.
      preemption.Stopped: after SIGTERM or SIGUSR1; the state is saved.
    """
    checkpointer = checkpoints.Checkpointer(workdir)
    started, lead = checkpointer.started, processes.is_lead()
    before = splits.read_seen(workdir) if started else None
    with _explained(config, mesh):
        run = build(config, mesh, resumed=started, before=before)
    restored = checkpointer.restore(run.state)
    if restored is not None:
        run.state = restored
    start, total = int(run.state.step), run.plan.total
    known = before is not None or not started
    if not known and start < total:
        allowed = config["train"]["allow_changed_data"]
        splits.require_record(workdir, allowed=allowed)
    saved = checkpointer.part(start, "config") if start else {}
    if (
        start >= total
        and config["train"]["extend"]
        and (changed := _extended(saved, run))
    ):
        raise ValueError(
            f"the run in {workdir} has made all its {start} steps, and with "
            f"{told(changed)} no step is left to make: give more --config.train.epochs."
        )
    on_start()
    # What a run that ended was trained on is not known from the data of today.
    if lead and run.record is not before and (known or start < total):
        run.record.write(workdir)
    if start:
        _extend(run, _extended(saved, run))
    if start and lead:
        moved = layout_change(checkpointer.part(start, "layout"), run.layout)
        what = "resuming %s at step %d of %d%s"
        logging.warning(what, workdir, start, total, moved)
    if start >= total or _out_of_patience(run):
        checkpointer.close()
        return
    progress = Progress(total, config["name"] or "train", done=start, shown=lead)
    metrics = contextlib.nullcontext()
    if lead:
        metrics = Writers(workdir, start, config["log"]["writers"], config)
    memory = _explained(config, mesh)
    with preemption.catching() as stop, metrics as writer, memory:
        try:
            watch = Watch(workdir, start, run.chance[1])
            _loop(run, start, checkpointer, writer, progress, stop, watch)
        finally:
            progress.close()
            run.feed.close()
            checkpointer.close()
    checkpoints.verify(workdir)


def layout_change(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns what a resumed run should say of other devices; '' if they are the same.

    The layout of the run that wrote the checkpoint is empty if it is unknown.
    """
    if not saved or dict(saved) == dict(now):
        return ""
    there, here = (
        f"{one['processes']} process{'es' * (one['processes'] > 1)} with "
        f"{one['devices']} device{'s' * (one['devices'] > 1)}"
        + f" ({one['feed']} data)"
        * (saved["feed"] != now["feed"])
        for one in (saved, now)
    )
    return (
        f"; it was saved by {there}, this is {here}: the batches are the same, "
        "parameters agree to rounding"
    )


def _extended(saved: Mapping[str, Any], run: Run) -> dict[str, tuple[Any, Any]]:
    """Returns in what a run goes on otherwise than its checkpoint was trained."""
    changed = differences(saved, run.config, base().to_dict()) if saved else {}
    return {k: v for k, v in changed.items() if k.startswith(EXTENDED)}


def _extend(run: Run, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Tells what is `_extended`.

    The patience of early stopping starts anew, and at another rate so does that of the
    plateau schedule, with the scale it had come to.
    """
    if not changed:
        return
    if processes.is_lead():
        logging.warning("going on with %s", told(changed))
    fresh: dict[str, Any] = {"patience": optimizer.Patience()}
    if any(name.startswith(("optimizer.", "schedule.")) for name in changed):
        fresh["plateau"] = optimizer.Plateau()
    run.state = run.state.replace(**parallel.replicate(run.mesh, fresh))


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
    start: int,
    checkpointer: checkpoints.Checkpointer,
    writer: MetricWriter | None,
    progress: Progress,
    stop: preemption.Stop,
    watch: Watch,
) -> None:
    plan, fields = run.plan, run.config["train"]
    skip, batch_size = fields["skip_nonfinite"], fields["batch_size"]
    history: collections.deque[Mapping[str, Any]] = collections.deque()
    begin, shown = time.monotonic(), {}
    pace = Pace(start, plan.total, run.config["name"])
    for number, batch in enumerate(run.feed.batches(start, plan.total), start + 1):
        run.state, metrics = run.step(run.state, batch, run.key)
        history.append(metrics)
        # The host may run ahead of the device by two steps, so that the display, a
        # signal and a value that is not finite are never far behind.
        if len(history) > 2:
            fetch_mean([history[-3]], number - 2, skip=skip)
            if processes.is_lead() and (slow := pace.finished(number - 2)):
                logging.warning("%s: %s", run.config["name"] or "train", slow)
        validated: dict[str, float] = {}
        validating = plan.due(number, plan.validate)
        if plan.due(number, fields["log_every_steps"]) or validating:
            row = fetch_mean(history, number, skip=skip)
            seconds = time.monotonic() - begin
            row["images_per_second"] = len(history) * batch_size / seconds
            if validating:
                # Else a validation would blame the weights, and not tell the step.
                nonfinite.check_state(run.state)
                with nonfinite.told(number):
                    validated = run.validate(run.state.variables)
                _after_validation(run, validated)
                if (lost := watch.saw(number, validated)) and processes.is_lead():
                    logging.warning("%s", lost)
            row |= {f"validation/{k}": v for k, v in validated.items()}
            if writer is not None:
                writer.write(number, {"epoch": number / plan.steps_per_epoch, **row})
            shown |= {short: row[name] for name, short in _SHOWN.items() if name in row}
            history.clear()
        progress.update(1, shown)
        stopping = stop.reached(number)
        if validated or stopping or number % fields["save_every_steps"] == 0:
            # Never save a broken state.
            fetch_mean(history or [metrics], number, skip=skip)
            if writer is not None:
                writer.flush()
            _save(run, checkpointer, number, validated)
        if not history:
            begin = time.monotonic()
        if stopping:
            raise preemption.Stopped(number, plan.total, stop.by)
        ended = bool(validated) and _out_of_patience(run)
        if validated and (ended or number == plan.total):
            for flag in flags.learned_nothing(validated["accuracy"], *run.chance):
                logging.warning("of the held-out images: %s", flag["message"])
        if ended:
            logging.warning("stopped early at step %d of %d", number, plan.total)
            return
    if stop.reached(plan.total + 1):
        raise preemption.Stopped(plan.total, plan.total, stop.by)


def _save(
    run: Run,
    checkpointer: checkpoints.Checkpointer,
    number: int,
    validated: Mapping[str, float],
) -> None:
    """Saves the state after a step, and what a validation of it found, if any did."""
    now = run.state
    if not validated:
        nonfinite.check_state(now)
    # What is chosen as the best is a network of the method.
    counted = validated if number > run.plan.first_phase else {}
    checkpointer.save(number, now, now.variables, run.config, counted, run.layout)


def _after_validation(run: Run, validated: Mapping[str, float]) -> None:
    """Moves the plateau schedule and the patience of early stopping."""
    schedule = run.config["schedule"]
    plateau, patience = parallel.to_host((run.state.plateau, run.state.patience))
    patience = optimizer.update_patience(patience, validated["accuracy"])
    if schedule["name"] == "plateau":
        plateau = optimizer.update_plateau(
            plateau, validated["loss"], schedule["factor"], schedule["patience"]
        )
    moved = parallel.replicate(run.mesh, {"plateau": plateau, "patience": patience})
    run.state = run.state.replace(**moved)


def _out_of_patience(run: Run) -> bool:
    """Says whether early stopping ends the run."""
    patience = run.config["train"]["early_stop"]
    return bool(patience) and int(run.state.patience.waited) >= patience
