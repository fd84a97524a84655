"""Finds the mistakes of a config before any work is done."""

import difflib
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import attacks, checkpoints, data, defenses, models
from jaxrobust.evaluation import (
    adaptive,
    analyses,
    corrupted,
    minimum,
    passes,
    suite,
    transfer,
)
from jaxrobust.evaluation.diagnose import check_counts
from jaxrobust.evaluation.fit import count_classes
from jaxrobust.training import compute, optimizer, source

PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")


def attack_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Reads an attack's fields from a config: radii become numbers."""
    options = {k: v for k, v in fields.items() if k != "name"}
    radii = {k: suite.parse_radius(options[k], k) for k in suite.RADII if k in options}
    return {**options, **radii}


def make_defense(
    config: Mapping[str, Any],
    model: nn.Module,
    name: str | None = None,
    *,
    steps_per_epoch: int = 1,
) -> defenses.Defense:
    """Builds the training objective of a config, or another of its family by name.

    Fields in epochs (`attack_warmup_epochs`) reach the factory in steps
    (`attack_warmup_steps`).
    """
    fields = config["objective"]
    options: dict[str, Any] = {}
    for field, value in fields.items():
        if field.endswith("_epochs"):
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"`objective.{field}` must be at least 0 and finite, got {value}."
                )
            field, value = f"{field[:-7]}_steps", round(value * steps_per_epoch)
        if field != "name" and value not in ("", None):
            options[field] = value
    if "eps_range" in options:
        options["eps_range"] = tuple(
            suite.parse_radius(eps, "objective.eps_range")
            for eps in options["eps_range"]
        )
    if name not in (None, fields["name"]):
        options.pop("awp_gamma", None)  # a twin is trained plainly
    options["attack"] = attack_options(config["attack"])
    return defenses.create(name or fields["name"], model, options)


def check(config: Mapping[str, Any]) -> None:
    """Checks what can be checked without data.

    Raises:
      ValueError: naming the field, its value and what would do.
      TypeError: for a field that a network or an attack does not have.
    """
    train, optimize = config["train"], config["optimizer"]
    for name, value, fine, rule in (
        ("train.epochs", train["epochs"], train["epochs"] > 0, "positive"),
        ("train.batch_size", train["batch_size"], train["batch_size"] > 0, "positive"),
        (
            "train.accumulate",
            train["accumulate"],
            train["accumulate"] > 0 and train["batch_size"] % train["accumulate"] == 0,
            f"a divisor of train.batch_size, {train['batch_size']}",
        ),
        ("train.ema", train["ema"], 0 <= train["ema"] < 1, "at least 0 and below 1"),
        (
            "train.early_stop",
            train["early_stop"],
            train["early_stop"] >= 0,
            "0 or more",
        ),
        (
            "train.skip_nonfinite",
            train["skip_nonfinite"],
            train["skip_nonfinite"] >= 0,
            "0 or more",
        ),
        (
            "optimizer.learning_rate",
            optimize["learning_rate"],
            0 < optimize["learning_rate"] < math.inf,
            "positive and finite",
        ),
        (
            "data.validation_examples",
            config["data"]["validation_examples"],
            config["data"]["validation_examples"] > 0,
            "positive: the checkpoint to evaluate is chosen on them",
        ),
    ):
        if not fine:
            raise ValueError(f"`{name}` must be {rule}, got {value}.")
    _check_name("train.compute_dtype", train["compute_dtype"], compute.DTYPES)
    _check_name("data.feed", config["data"]["feed"], source.FEEDS)
    _check_name("precision", config["precision"], PRECISIONS)
    _check_name("eval.precision", config["eval"]["precision"], PRECISIONS)
    model = checkpoints.create_model(config)
    compute.training_model(model, config)
    make_defense(config, model)
    if config["twin"]:
        make_defense(config, model, config["twin"])
    optimizer.make_optimizer(config["optimizer"])
    optimizer.make_schedule(
        config["schedule"],
        optimize["learning_rate"],
        steps_per_epoch=1,
        total_steps=1,
    )
    chosen = config["validation"]["attack"]
    attacks.get(chosen["name"], **attack_options(chosen))
    fields, method = config["eval"], adaptive.method_of(config)
    entries, _ = suite.chosen(fields, config["data"]["name"], method)
    _check_sources(entries, bool(config["twin"]))
    passes.width_of(fields)
    minimum.read_within(fields)
    analyses.read_eps(config["eval"]["analysis"])
    corrupted.read(config["eval"]["corruptions"])
    check_counts(config["eval"]["diagnostics"], "eval.diagnostics.")
    for eps in config["eval"]["curve"]["eps"]:
        suite.parse_radius(eps, "eval.curve.eps")


def _check_sources(entries: Sequence[suite.Entry], has_twin: bool) -> None:
    """Checks that the sources of transfer attacks are there; a twin is yet to come."""
    for entry in entries:
        if not isinstance(entry, transfer.Transfer):
            continue
        coming = has_twin and pathlib.PurePath(entry.source).name == "twin"
        if not coming and not checkpoints.exists(entry.source):
            raise ValueError(
                f"attack {entry.label!r} transfers from {entry.source!r}, where there "
                "is no checkpoint: set eval.transfer_from to a trained work directory."
            )


def _check_name(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
        raise ValueError(
            f"`{field}` must be one of {', '.join(known)}, got {value!r}. "
            f"Did you mean {near[0]!r}?"
        )


def check_data(config: Mapping[str, Any], model: nn.Module, found: data.Source) -> None:
    """Checks that a network fits a data set and its objective; computes nothing.

    Raises:
      ValueError: if it does not take such images, the number of classes differs, or the
        objective asks for features that it does not have.
    """
    name, key = config["data"]["name"], jax.random.key(0)
    classes = count_classes(
        lambda x: models.logits_fn(model, model.init(key, x, train=False))(x),
        found,
        name,
    )
    if classes != found.num_classes:
        raise ValueError(
            f"the network has {classes} classes, but {name} has {found.num_classes}; "
            "set --config.model.num_classes."
        )
    defense = make_defense(config, model)
    jax.eval_shape(
        lambda key, x: defense.init(key, model.init(key, x, train=False), x),
        key,
        jax.ShapeDtypeStruct((1, *found.shape), jnp.float32),
    )
