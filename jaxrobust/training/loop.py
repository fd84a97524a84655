"""The training loop: build, restore, step, validate, save."""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array

from jaxrobust import attacks, checkpoints, data, evaluation, parallel
from jaxrobust.array_types import Key
from jaxrobust.data import augment
from jaxrobust.evaluation.progress import Progress
from jaxrobust.training import compute, optimizer, state, step
from jaxrobust.training.accumulate import check_parts
from jaxrobust.training.check import attack_options, check_data, make_defense
from jaxrobust.training.metrics import MetricWriter, fetch_mean
from jaxrobust.training.source import ResidentSource, batch_indices


@dataclasses.dataclass(frozen=True)
class Plan:
    """When things happen, in steps."""

    steps_per_epoch: int
    total: int
    log: int
    save: int
    validate: int

    @classmethod
    def of(cls, config: Mapping[str, Any], examples: int) -> "Plan":
        """Reads the plan from `config.train` for a training set of `examples`.

        Raises:
          ValueError: if the set is smaller than a batch or a cadence is not positive.
        """
        train = config["train"]
        per_epoch = examples // train["batch_size"]
        if per_epoch < 1:
            raise ValueError(
                f"`train.batch_size` {train['batch_size']} is larger than the "
                f"{examples} training examples."
            )
        for name in ("log_every_steps", "save_every_steps", "validate_every_epochs"):
            if not train[name] > 0:
                raise ValueError(f"`train.{name}` must be positive, got {train[name]}.")
        return cls(
            steps_per_epoch=per_epoch,
            total=max(1, round(train["epochs"] * per_epoch)),
            log=train["log_every_steps"],
            save=train["save_every_steps"],
            validate=math.ceil(train["validate_every_epochs"] * per_epoch),
        )

    def due(self, step: int, every: int) -> bool:
        """Says whether something done every so many steps, and at the end, is due."""
        return step == self.total or step % every == 0


def make_validation(
    model: nn.Module,
    config: Mapping[str, Any],
    held_out: data.Dataset,
    mesh: Mesh,
    key: Key,
) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """Returns `variables -> accuracy, robust accuracy and loss` on held-out images."""
    fields = config["validation"]["attack"]
    attack = attacks.get(fields["name"], **attack_options(fields))
    steps = {"": None, "robust_": attack}
    compiled = {
        prefix: evaluation.make_eval_step(
            model, a, precision=config["eval"]["precision"]
        )
        for prefix, a in steps.items()
    }

    def validate(variables: Mapping[str, Any]) -> dict[str, float]:
        found = {}
        for prefix, run in compiled.items():
            result = evaluation.run_eval_step(
                run,
                variables,
                held_out,
                key=key,
                batch_size=config["validation"]["batch_size"],
                mesh=mesh,
            )
            found[f"{prefix}accuracy"] = result.accuracy
            found[f"{prefix}loss"] = float(result.loss.mean())
        return found

    return validate


@dataclasses.dataclass
class Run:
    """What the loop works with; `state` is the only thing that changes."""

    state: state.TrainState
    step: step.Step
    source: ResidentSource
    validate: Callable[[Mapping[str, Any]], dict[str, float]]
    plan: Plan
    key: Array
    examples: int


def build(config: Mapping[str, Any], mesh: Mesh, *, resumed: bool = False) -> Run:
    """Builds everything a run needs from its config, at step 0.

    Args:
      config: as `train`.
      mesh: the devices.
      resumed: a checkpoint will take the place of the state, so the network that
        `train.init_from` names, which may be gone by now, is not read.

    Raises:
      ValueError: if a field of the config makes no sense (unknown names, sizes).
    """
    batch_size = config["train"]["batch_size"]
    accumulate = config["train"]["accumulate"]
    check_parts(mesh, batch_size, accumulate)
    train_set, held_out = load_train(config)
    plan = Plan.of(config, len(train_set))

    model = checkpoints.create_model(config)
    check_data(config, model, train_set)
    defense = make_defense(
        config,
        compute.training_model(model, config),
        steps_per_epoch=plan.steps_per_epoch,
    )
    tx = optimizer.make_optimizer(
        config["optimizer"], defense.labels, config["label_optimizers"]
    )
    schedule = optimizer.make_schedule(
        config["schedule"],
        config["optimizer"]["learning_rate"],
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total,
    )
    key = jax.random.key(config["seed"])
    init_key, run_key, validation_key = jax.random.split(key, 3)
    dtype = compute.state_dtype(config)
    example = jnp.zeros((1, *train_set.shape), dtype)
    variables = state.init_variables(model, example, init_key)
    if config["train"]["init_from"] and not resumed:
        variables = _start_from(config["train"]["init_from"], variables)
    variables = compute.cast(variables, dtype)
    ema = config["train"]["ema"]
    first = state.create(variables, defense, tx, example, key=init_key, ema=ema > 0)
    return Run(
        state=parallel.replicate(mesh, first),
        step=step.make_train_step(
            defense,
            tx,
            schedule,
            augment.make(config["data"]["augment"]),
            mesh=mesh,
            ema=ema,
            precision=config["precision"],
            dtype=dtype,
            accumulate=accumulate,
        ),
        source=ResidentSource(train_set, mesh),
        validate=make_validation(model, config, held_out, mesh, validation_key),
        plan=plan,
        key=parallel.replicate(mesh, run_key),
        examples=len(train_set),
    )


def _start_from(path: str, like: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the network's variables in a checkpoint, a work directory's last.

    Raises:
      ValueError: if they are of another architecture.
    """
    _, found, _ = checkpoints.load(path, "last")
    found = {k: v for k, v in found.items() if k != "extra"}
    shapes = [jax.tree.map(jnp.shape, dict(tree)) for tree in (found, like)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`train.init_from` {path} holds another architecture than this config; "
            "give it the same model fields."
        )
    return jax.tree.map(jnp.asarray, found)


def load_train(config: Mapping[str, Any]) -> tuple[data.Dataset, data.Dataset]:
    """Loads the training split; returns it and the slice held out for validation."""
    fields = config["data"]
    dataset = data.load(
        fields["name"],
        "train",
        image_size=fields["image_size"] or None,
        channels=fields["channels"],
        limit=fields["train_examples"] or None,
    )
    return data.split_validation(dataset, fields["validation_examples"], config["seed"])


def train(config: Mapping[str, Any], workdir: epath.PathLike, mesh: Mesh) -> None:
    """Trains from the last checkpoint of `workdir` (or from the start) to the end.

    Args:
      config: a plain dictionary with the fields of `config.base()`.
      workdir: gets `checkpoints/`, `metrics.jsonl` and TensorBoard events.
      mesh: the devices.

    Raises:
      FloatingPointError: if a metric is not finite; the last checkpoint is kept.
    """
    checkpointer = checkpoints.Checkpointer(workdir)
    run = build(config, mesh, resumed=checkpointer.started)
    restored = checkpointer.restore(run.state)
    if restored is not None:
        run.state = restored
    start = int(run.state.step)
    if start:
        logging.warning("resuming %s at step %d of %d", workdir, start, run.plan.total)
    if start >= run.plan.total or _out_of_patience(run.state, config):
        checkpointer.close()
        return
    progress = Progress(run.plan.total, config["name"] or "train", done=start)
    with MetricWriter(workdir, start) as writer:
        try:
            _loop(run, config, start, checkpointer, writer, progress)
        finally:
            progress.close()
            checkpointer.close()


def _loop(
    run: Run,
    config: Mapping[str, Any],
    start: int,
    checkpointer: checkpoints.Checkpointer,
    writer: MetricWriter,
    progress: Progress,
) -> None:
    plan, batch_size = run.plan, config["train"]["batch_size"]
    history: collections.deque[dict[str, Array]] = collections.deque()
    begin, shown = time.monotonic(), {}
    order = batch_indices(
        run.examples, batch_size, config["seed"], start=start, stop=plan.total
    )
    for number, index in enumerate(order, start + 1):
        run.state, metrics = run.step(run.state, run.source.batch(index), run.key)
        history.append(metrics)
        # The host may run ahead of the device by two steps, so that the display and a
        # signal are never far behind.
        if len(history) > 2:
            jax.block_until_ready(history[-3]["loss"])
        validated: dict[str, float] = {}
        if plan.due(number, plan.validate):
            validated = run.validate(run.state.variables)
            run.state = _after_validation(run.state, config, validated)
        if plan.due(number, plan.log) or validated:
            row = fetch_mean(history, number)
            row["images_per_second"] = (
                len(history) * batch_size / (time.monotonic() - begin)
            )
            row |= {f"validation/{k}": v for k, v in validated.items()}
            writer.write(number, {"epoch": number / plan.steps_per_epoch, **row})
            shown |= _shown(row)
            history.clear()
        progress.update(1, shown)
        if validated or number % plan.save == 0:
            fetch_mean(history or [metrics], number)  # never save a broken state
            checkpointer.save(number, run.state, run.state.variables, config, validated)
        if not history:
            begin = time.monotonic()
        if validated and _out_of_patience(run.state, config):
            logging.warning("stopped early at step %d of %d", number, plan.total)
            return


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
    current: state.TrainState, config: Mapping[str, Any], validated: dict[str, float]
) -> state.TrainState:
    """Moves the plateau schedule and the patience of early stopping."""
    schedule = config["schedule"]
    patience = optimizer.update_patience(
        current.patience, jnp.float32(validated["accuracy"])
    )
    plateau = current.plateau
    if schedule["name"] == "plateau":
        plateau = optimizer.update_plateau(
            plateau,
            jnp.float32(validated["loss"]),
            schedule["factor"],
            schedule["patience"],
        )
    plateau, patience = jax.device_put((plateau, patience), current.step.sharding)
    return current.replace(plateau=plateau, patience=patience)


def _out_of_patience(current: state.TrainState, config: Mapping[str, Any]) -> bool:
    """Says whether early stopping ends the run."""
    patience = config["train"]["early_stop"]
    return bool(patience) and int(current.patience.waited) >= patience
