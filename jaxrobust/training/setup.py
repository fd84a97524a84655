"""What a run is made of, from its config: data, state, step, validation, plan."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxrobust import attacks, data, defenses, evaluation, parallel
from jaxrobust.array_types import Images, Key
from jaxrobust.data import augment, mix
from jaxrobust.defenses import Defense
from jaxrobust.evaluation import flags
from jaxrobust.evaluation.step import exact
from jaxrobust.named_models import create_model
from jaxrobust.parallel import processes
from jaxrobust.runtime import out_of_memory
from jaxrobust.training import averaging, compute, nonfinite, optimizer, state, step
from jaxrobust.training.accumulate import check_parts
from jaxrobust.training.check import attack_options, check_data, make_defense
from jaxrobust.training.extra import join
from jaxrobust.training.feed import Feed, ResidentFeed, StreamFeed
from jaxrobust.training.splits import Seen, check_test_split, load_train
from jaxrobust.training.start import start_from

Validate = Callable[[Mapping[str, Any]], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """When things happen, in steps, from `config.train`.

    In the `first_phase` of an objective with two (PCL, PC-LC) its own losses do not act
    yet: a network from there is not the method's, however it does in validation.
    """

    steps_per_epoch: int
    total: int
    validate: int
    first_phase: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], examples: int) -> "Plan":
        """Makes the plan for a training set of `examples`; ValueError for too few."""
        train = config["train"]
        per_epoch = examples // train["batch_size"]
        if per_epoch < 1:
            raise ValueError(
                f"`train.batch_size` {train['batch_size']} is larger than the "
                f"{examples} training examples."
            )
        total = max(1, round(train["epochs"] * per_epoch))
        if total >= 2**31:
            raise ValueError(
                f"`train.epochs` {train['epochs']:g} of {per_epoch} steps are more "
                "than 2^31 steps; set --config.train.epochs."
            )
        return cls(
            steps_per_epoch=per_epoch,
            total=total,
            validate=math.ceil(train["validate_every_epochs"] * per_epoch),
            first_phase=_first_phase(config["objective"], per_epoch, total),
        )

    def due(self, step: int, every: int) -> bool:
        """Says whether something done every so many steps, and at the end, is due."""
        return step == self.total or step % every == 0


def _first_phase(objective: Mapping[str, Any], steps_per_epoch: int, total: int) -> int:
    """Returns the steps before an objective's own losses act; 0 of a run that ends."""
    options = inspect.signature(defenses.factory(objective["name"])).parameters
    if "warmup_steps" not in options:
        return 0
    steps = round(objective.get("warmup_epochs", 0.0) * steps_per_epoch)
    return steps if steps < total else 0


def make_validation(
    model: nn.Module,
    config: Mapping[str, Any],
    held_out: data.Dataset,
    mesh: Mesh,
    key: Key,
) -> Validate:
    """Returns `variables -> accuracy, robust accuracy and loss` on held-out images."""
    fields = config["validation"]["attack"]
    attack = attacks.get(fields["name"], **attack_options(fields))
    precision = exact(config["eval"]["precision"])
    steps = {
        "": evaluation.make_eval_step(model, None, precision=precision),
        "robust_": evaluation.make_eval_step(model, attack, precision=precision),
    }
    size = config["validation"]["batch_size"]
    where: dict[str, Any] = {"key": key, "batch_size": size, "mesh": mesh}
    flag = "--config.validation.batch_size"

    def validate(variables: Mapping[str, Any]) -> dict[str, float]:
        found = {}
        for prefix, run in steps.items():
            with out_of_memory.explained(flag, size, mesh.size):
                result = evaluation.run_eval_step(run, variables, held_out, **where)
            found[f"{prefix}accuracy"] = result.accuracy
            found[f"{prefix}loss"] = float(result.loss.mean())
        return found

    return validate


@dataclasses.dataclass
class Run:
    """What the loop works with; `state` is the only thing that changes.

    `chance` is the accuracy of always answering the commonest held-out class, and the
    number of held-out images; `layout` how the run is spread over the machine.
    """

    config: Mapping[str, Any]
    state: state.TrainState
    step: nonfinite.Update
    feed: Feed
    validate: Validate
    chance: tuple[float, int]
    plan: Plan
    key: Array
    mesh: Mesh
    layout: dict[str, Any]
    record: Seen


def build(
    config: Mapping[str, Any],
    mesh: Mesh,
    *,
    resumed: bool = False,
    before: Seen | None = None,
) -> Run:
    """Builds everything a run needs from its config, at step 0.

    Where it is `resumed`, a checkpoint will take the place of the state: the network
    that `train.init_from` names may be gone by now, and is not read. `before` is what
    such a run was trained on. A field that makes no sense (unknown names, sizes), and
    data that changed, are a ValueError.
    """
    train = config["train"]
    check_parts(mesh, train["batch_size"], train["accumulate"])
    train_set, held_out, streamed, record = load_train(config, before)
    processes.check_same("the training data", lambda: data.digest(train_set))
    plan = Plan.of(config, len(train_set))

    model = create_model(config)
    check_data(config, model, train_set)
    check_test_split(config, train_set)
    images, blend, many, record = join(config, train_set, record, before)
    streamed = streamed or many
    defense = make_defense(
        config,
        compute.training_model(model, config),
        steps_per_epoch=plan.steps_per_epoch,
    )
    tx = optimizer.make_optimizer(
        config["optimizer"], defense.labels, config["label_optimizers"]
    )
    keys = jax.random.split(jax.random.key(config["seed"]), 3)
    init_key, run_key, validation_key = keys
    example = jnp.zeros((1, *train_set.shape), compute.state_dtype(config))
    first = _first_state(config, model, defense, tx, example, init_key, resumed)
    return Run(
        config=config,
        state=parallel.replicate(mesh, first),
        step=_make_step(config, defense, tx, plan, mesh, train_set.num_classes),
        feed=(StreamFeed if streamed else ResidentFeed)(
            images,
            mesh,
            batch_size=train["batch_size"],
            seed=config["seed"],
            blend=blend,
        ),
        validate=make_validation(model, config, held_out, mesh, validation_key),
        chance=(
            flags.chance_of(held_out.labels, len(held_out.class_names)),
            len(held_out.labels),
        ),
        plan=plan,
        key=parallel.replicate(mesh, run_key),
        mesh=mesh,
        layout={
            "processes": jax.process_count(),
            "devices": mesh.size,
            "feed": "stream" if streamed else "resident",
        },
        record=record,
    )


def _first_state(
    config: Mapping[str, Any],
    model: nn.Module,
    defense: Defense,
    tx: optax.GradientTransformation,
    example: Images,
    key: Key,
    resumed: bool,
) -> state.TrainState:
    """Returns the state at step 0: as initialised, or another run's network."""
    variables = state.init_variables(model, example, key)
    if config["train"]["init_from"] and not resumed:
        variables = start_from(config, variables, example)
    variables = compute.cast(variables, example.dtype)
    processes.check_same(
        "the network at the start", lambda: processes.digest(variables)
    )
    averages = {"ema": config["train"]["ema"] > 0}
    averages["swa"] = config["train"]["swa_epochs"] > 0
    first = state.create(variables, defense, tx, example, key=key, **averages)
    if config["train"]["skip_nonfinite"]:
        return nonfinite.Counted.of(first)
    return first


def _make_step(
    config: Mapping[str, Any],
    defense: Defense,
    tx: optax.GradientTransformation,
    plan: Plan,
    mesh: Mesh,
    classes: int,
) -> nonfinite.Update:
    """Makes the step as the config has it; compiles nothing yet."""
    train = config["train"]
    schedule = optimizer.make_schedule(
        config["schedule"],
        config["optimizer"]["learning_rate"],
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total,
    )
    return step.make_train_step(
        defense,
        tx,
        schedule,
        augment.make(config["data"]["augment"]),
        mesh=mesh,
        ema=train["ema"],
        precision=config["precision"],
        dtype=compute.state_dtype(config),
        accumulate=train["accumulate"],
        skip_nonfinite=train["skip_nonfinite"] > 0,
        mix=mix.make(config["data"]["mix"], classes),
        swa=averaging.Span.of(train["swa_epochs"], plan.total, plan.steps_per_epoch),
    )
