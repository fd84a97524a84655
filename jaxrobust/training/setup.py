"""What a run is made of, from its config: data, state, step, validation, plan."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxrobust import attacks, data, evaluation, parallel
from jaxrobust.array_types import Key
from jaxrobust.data import augment
from jaxrobust.evaluation import flags
from jaxrobust.named_models import create_model
from jaxrobust.parallel import processes
from jaxrobust.runtime import out_of_memory
from jaxrobust.training import (
    compute,
    layout,
    nonfinite,
    optimizer,
    seen,
    state,
    step,
)
from jaxrobust.training.accumulate import check_parts
from jaxrobust.training.check import attack_options, check_data, make_defense
from jaxrobust.training.source import Batches, ResidentSource, streams
from jaxrobust.training.start import start_from
from jaxrobust.training.stream import StreamSource
from jaxrobust.training.test_split import check_test_split


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
        total = max(1, round(train["epochs"] * per_epoch))
        if total >= 2**31:
            raise ValueError(
                f"`train.epochs` {train['epochs']:g} of {per_epoch} steps are more "
                "than 2^31 steps; set --config.train.epochs."
            )
        return cls(
            steps_per_epoch=per_epoch,
            total=total,
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

    batch_size = config["validation"]["batch_size"]

    def validate(variables: Mapping[str, Any]) -> dict[str, float]:
        found = {}
        for prefix, run in compiled.items():
            with out_of_memory.explained(
                "--config.validation.batch_size", batch_size, mesh.size
            ):
                result = evaluation.run_eval_step(
                    run,
                    variables,
                    held_out,
                    key=key,
                    batch_size=batch_size,
                    mesh=mesh,
                )
            found[f"{prefix}accuracy"] = result.accuracy
            found[f"{prefix}loss"] = float(result.loss.mean())
        return found

    return validate


@dataclasses.dataclass
class Run:
    """What the loop works with; `state` is the only thing that changes.

    `chance` is the accuracy of always answering the commonest class of the held-out
    images, and their number.
    """

    state: state.TrainState
    step: step.Step
    source: Batches
    validate: Callable[[Mapping[str, Any]], dict[str, float]]
    chance: tuple[float, int]
    plan: Plan
    key: Array
    mesh: Mesh
    layout: dict[str, Any]
    record: seen.Seen


def build(
    config: Mapping[str, Any],
    mesh: Mesh,
    *,
    resumed: bool = False,
    before: seen.Seen | None = None,
) -> Run:
    """Builds everything a run needs from its config, at step 0.

    Args:
      config: as `train`.
      mesh: the devices.
      resumed: a checkpoint will take the place of the state, so the network that
        `train.init_from` names, which may be gone by now, is not read.
      before: what the run was trained on, where it goes on.

    Raises:
      ValueError: if a field of the config makes no sense (unknown names, sizes), or the
        data changed.
    """
    batch_size = config["train"]["batch_size"]
    accumulate = config["train"]["accumulate"]
    check_parts(mesh, batch_size, accumulate)
    train_set, held_out, streamed, record = load_train(config, before)
    processes.check_same("the training data", lambda: data.digest(train_set))
    plan = Plan.of(config, len(train_set))

    model = create_model(config)
    check_data(config, model, train_set)
    check_test_split(config, train_set)
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
        variables = start_from(config, variables, example)
    variables = compute.cast(variables, dtype)
    processes.check_same(
        "the network at the start", lambda: processes.digest(variables)
    )
    ema = config["train"]["ema"]
    first = state.create(variables, defense, tx, example, key=init_key, ema=ema > 0)
    skip = config["train"]["skip_nonfinite"] > 0
    if skip:
        first = nonfinite.Counted.of(first)
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
            skip_nonfinite=skip,
        ),
        source=(StreamSource if streamed else ResidentSource)(
            train_set, mesh, batch_size=batch_size, seed=config["seed"]
        ),
        validate=make_validation(model, config, held_out, mesh, validation_key),
        chance=(
            flags.chance_of(held_out.labels, len(held_out.class_names)),
            len(held_out.labels),
        ),
        plan=plan,
        key=parallel.replicate(mesh, run_key),
        mesh=mesh,
        layout=layout.of(mesh, "stream" if streamed else "resident"),
        record=record,
    )


def load_train(
    config: Mapping[str, Any], before: seen.Seen | None = None
) -> tuple[data.Source, data.Dataset, bool, seen.Seen]:
    """Opens the training split.

    Args:
      config: of the run.
      before: what a run that goes on was trained on; None for a new one.

    Returns:
      The images to train on, left on disk where they stream; the slice held out for
      validation, in memory; whether the former stream (`data.feed`); and what to
      remember of them.

    Raises:
      ValueError: for data that changed since, see `seen.divide`, or too few.
    """
    fields = config["data"]
    found = open_train(config)
    streamed = streams(fields["feed"], found.nbytes)
    found = found if streamed else found.load()
    rows = _rows_to_hold_out(config, found, before)
    train_set, held_out = data.divide(found, rows)
    held_out = held_out.load()
    if before is None or rows is not before.rows:
        before = seen.Seen.of(fields["name"], found, rows, before)
    return train_set, held_out, streamed, before


def open_train(config: Mapping[str, Any]) -> data.Source:
    """Opens all of the training split, without reading it."""
    fields = config["data"]
    return data.open_source(
        fields["name"],
        "train",
        image_size=fields["image_size"] or None,
        channels=fields["channels"],
        limit=fields["train_examples"] or None,
    )


def _rows_to_hold_out(
    config: Mapping[str, Any], found: data.Source, before: seen.Seen | None
) -> Int[np.ndarray, "V"]:
    """Returns which of the training images are for validation."""
    fields, wanted = config["data"], config["data"]["validation_examples"]
    if before is not None:
        allowed = config["train"]["allow_changed_data"]
        return seen.divide(found, before, fields["name"], allowed=allowed)
    if wanted >= len(found):
        raise ValueError(
            f"`data.validation_examples` must be below the {len(found)} training "
            f"images of {fields['name']}, got {wanted}; set "
            "--config.data.validation_examples."
        )
    return data.validation_rows(found, wanted, config["seed"])
