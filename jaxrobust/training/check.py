"""Finds the mistakes of a config before any work is done."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import attacks, checkpoints, data, defenses, models
from jaxrobust._checks import nearest_match
from jaxrobust.array_types import Images, Key, PyTree, Variables
from jaxrobust.data import augment, mix
from jaxrobust.defenses.base import FROZEN
from jaxrobust.evaluation import (
    adaptive,
    analyses,
    passes,
    preprocessed,
    robustbench,
    suite,
    transfer,
)
from jaxrobust.evaluation.autoattack.setup import slots_for
from jaxrobust.named_models import count_classes, create_model
from jaxrobust.results.schema import sources_of
from jaxrobust.training import compute, fields, idle, optimizer, writers


def attack_options(attack: Mapping[str, Any]) -> dict[str, Any]:
    """Reads an attack's fields from a config: radii become numbers."""
    options = {k: v for k, v in attack.items() if k != "name"}
    radii = {k: suite.parse_radius(options[k], k) for k in suite.RADII if k in options}
    return {**options, **radii}


def make_defense(
    config: Mapping[str, Any],
    model: nn.Module,
    name: str | None = None,
    *,
    steps_per_epoch: int = 1,
    read: bool = True,
) -> defenses.Defense:
    """Builds the training objective of a config, or another of its family by name.

    Fields in epochs (`attack_warmup_epochs`) reach the factory in steps
    (`attack_warmup_steps`). Networks on disk are `read` only where they are needed.
    """
    given = config["objective"]
    name = name or str(given["name"])
    options: dict[str, Any] = {}
    for field, value in given.items():
        if field == "name" or value in ("", None, {}):
            continue
        if field.endswith("_epochs"):
            field, value = f"{field[:-7]}_steps", round(value * steps_per_epoch)
        options[field] = value
    for field in ("eps_range", "radii"):
        if field in options:
            options[field] = tuple(
                suite.parse_radius(eps, f"objective.{field}") for eps in options[field]
            )
    if "helper" in options:
        helper = options.pop("helper")
        if read and "helper" in defenses.options_of(name):
            options["helper"] = _helper(helper)
    if "guide" in options:
        options["guide"] = _guide(config)
    if name != given["name"]:
        options.pop("awp_gamma", None)  # a twin is trained plainly
    options["attack"] = attack_options(config["attack"])
    return defenses.create(name, model, options)


def _helper(path: str) -> tuple[nn.Module, Variables]:
    """Loads `objective.helper`, which is to be good at clean images."""
    try:
        return checkpoints.load(path, "best_clean")[:2]
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"`helper` {path!r}: {error}") from None


def _guide(config: Mapping[str, Any]) -> nn.Module:
    """Builds `objective.guide`, a table as `model`, with the network's classes."""
    given, classes = config["objective"]["guide"], "num_classes"
    if not isinstance(given, Mapping) or "name" not in given:
        raise ValueError(
            f"`guide` is a table as `model`, with the name of a network, got {given!r}."
        )
    fields = dict(given)
    if classes in config["model"]:
        fields = {classes: config["model"][classes], **fields}
    return create_model({"model": fields})


def check(config: Mapping[str, Any]) -> None:
    """Checks all fields of a config, whatever mode they are for, without data.

    Raises:
      ValueError: naming each field as `--config.` sets it, its value and what would do.
      TypeError: for a field that a network or an attack does not have.
    """
    if found := fields.problems(config):
        raise ValueError("\n".join(found))
    size, parts = config["train"]["batch_size"], config["train"]["accumulate"]
    if size % parts:
        raise ValueError(
            f"`train.accumulate` must be a divisor of train.batch_size, {size}, got "
            f"{parts}."
        )
    with _about("model"):
        model = create_model(config)
    compute.training_model(model, config)
    with _about("objective (or attack, which it trains with)"):
        suite.check_use(config["attack"])
        _check_deterministic("attack", config["attack"])
        _check_mixes(config, make_defense(config, model, read=False))
    if config["twin"]:
        with _about("twin"):
            twin = make_defense(config, model, config["twin"], read=False)
            _check_mixes(config, twin)
    if config["train"]["ema"] and config["train"]["swa_epochs"]:
        raise ValueError(
            "`train.ema` and `train.swa_epochs` are two averages of the weights: set "
            "one of them to 0."
        )
    optimizer.make_schedule(config["schedule"], 1.0, steps_per_epoch=1, total_steps=1)
    with _about("data.augment"):
        augment.make(config["data"]["augment"])
    with _about("data.mix"):
        mix.make(config["data"]["mix"], 2)
    chosen = config["validation"]["attack"]
    with _about("validation.attack"):
        suite.check_use(chosen)
        _check_deterministic("it", chosen)
        attacks.get(chosen["name"], **attack_options(chosen))
        suite.read({"on held-out images": chosen})
    writers.check(config["log"]["writers"])
    check_evaluation(config)


def check_evaluation(config: Mapping[str, Any]) -> None:
    """Checks what an evaluation takes from a config; see `check`."""
    if found := fields.problems(config, only=("eval", "data", "seed")):
        raise ValueError("\n".join(found))
    wanted, method = config["eval"], adaptive.method_of(config)
    entries, _ = suite.chosen(wanted, config["data"]["name"], method)
    has_twin = bool(config.get("twin"))
    for entry in entries:
        what = f"attack {entry.label!r}"
        if isinstance(entry, transfer.Transfer):
            _check_source(what, entry.source, has_twin)
        _check_deterministic(what, entry.hyperparameters)
    if source_folder := wanted["transfer_from"]:
        _check_source("eval.transfer_from", source_folder, has_twin)
    if wanted["slots"]:
        with _about("eval.slots"):
            slots_for(wanted["slots"], jax.device_count(), 1)
    passes.width_of(wanted)
    with _about("eval.preprocessing"):
        if wanted.get("preprocessing", ""):
            behind = preprocessed.fields_behind(config)
            suite.chosen(behind, config["data"]["name"], method)
    analyses.check(wanted, entries, analyses.load(wanted))
    with _about("eval.robustbench"):
        robustbench.read_about(wanted["robustbench"])


def _check_mixes(config: Mapping[str, Any], defense: defenses.Defense) -> None:
    """Refuses to mix images where an objective takes no mixed labels."""
    asked = [f"data.mix.{k}" for k, value in config["data"]["mix"].items() if value]
    if asked and not defense.mixes:
        raise ValueError(
            f"{' and '.join(asked)} mixes labels, which this objective does not take: "
            "set it to 0, or train one that is made of cross-entropies (standard, pgd, "
            "fast, trades ...; of your own: Defense(..., mixes=True))."
        )


@contextlib.contextmanager
def _about(field: str) -> Iterator[None]:
    """Says in an error of something that a config describes where it does so."""
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"--config.{field}: {error}") from None


def notices(config: Mapping[str, Any], mode: str = "train_eval") -> list[str]:
    """Returns what is allowed but seldom meant in a mode, a line for each."""
    found = [] if mode == "eval" else _of_training(config)
    if mode != "train" and not (config["eval"]["suite"] or config["eval"]["attacks"]):
        found.append(
            "eval.attacks is empty: nothing is attacked, so nothing is said about "
            "robustness"
        )
    tables = {} if mode == "eval" else {"attack": config["attack"]}
    if mode != "train":
        evaluated = config["eval"]["attacks"]
        tables |= {f"eval.attacks.{label}": one for label, one in evaluated.items()}
    return found + suite.notices(tables)


def _of_training(config: Mapping[str, Any]) -> list[str]:
    epochs, schedule = config["train"]["epochs"], config["schedule"]
    found = idle.told(config)
    milestones = schedule["milestones"] or (0,)
    if schedule["name"] in ("step", "piecewise") and min(milestones) >= epochs:
        found.append(
            f"schedule.milestones {tuple(milestones)} all lie beyond train.epochs "
            f"{epochs:g}: the learning rate never changes"
        )
    if (last := config["train"]["swa_epochs"]) > epochs:
        found.append(
            f"train.swa_epochs {last:g} is more than train.epochs {epochs:g}: the "
            "average is over the ends of all whole epochs"
        )
    warm = {"schedule.warmup_epochs": schedule["warmup_epochs"]}
    for name, value in config["objective"].items():
        if name.endswith("warmup_epochs"):
            warm[f"objective.{name}"] = value
    if config["train"]["init_skip"] and not config["train"]["init_from"]:
        found.append("train.init_skip says what to leave out of train.init_from: unset")
    return found + [
        f"{name} {value:g} is all of train.epochs {epochs:g}: the warm-up never ends"
        for name, value in warm.items()
        if value and value >= epochs
    ]


def _check_deterministic(what: str, options: Mapping[str, Any]) -> None:
    """Refuses attacks on randomised networks: those of the program take no keys."""
    if options.get("stochastic"):
        raise ValueError(
            f"{what} has `stochastic` True, but the program's networks draw nothing: "
            "leave it out; python -m jaxrobust.evaluation attacks randomised ones."
        )


def _check_source(what: str, source_folder: str, has_twin: bool) -> None:
    """Checks that a network to transfer from is there; a twin is yet to come."""
    for folder in sources_of(source_folder):
        _check_one(what, folder, has_twin)


def _check_one(what: str, source_folder: str, has_twin: bool) -> None:
    coming = has_twin and pathlib.PurePath(source_folder).name == "twin"
    if not coming and not checkpoints.exists(source_folder):
        raise ValueError(
            f"{what} transfers from {source_folder!r}, where there is no checkpoint: "
            "set eval.transfer_from to a trained work directory."
        )


def check_data(config: Mapping[str, Any], model: nn.Module, found: data.Source) -> None:
    """Checks that a network fits a data set and its objective; computes nothing.

    Raises:
      ValueError: if it does not take such images, has another number of classes, or not
        the features that the objective asks for.
    """
    name, key = config["data"]["name"], jax.random.key(0)
    classes = count_classes(
        lambda x: models.logits_fn(model, model.init(key, x, train=False))(x),
        found.shape,
        name,
    )
    if classes != found.num_classes:
        raise ValueError(
            f"the network has {classes} classes, but {name} has {found.num_classes}; "
            "set --config.model.num_classes."
        )
    with _about("objective"):
        defense = make_defense(config, model)

    def start(key: Key, x: Images) -> dict[str, Any]:
        variables = model.init(key, x, train=False)
        extra = defense.init(key, variables, x)
        return {"model": variables["params"], "extra": extra}

    like = jax.ShapeDtypeStruct((1, *found.shape), jnp.float32)
    with _about("objective"):
        made = jax.eval_shape(start, key, like)
    _check_labels(config, defense, made)


def _check_labels(
    config: Mapping[str, Any], defense: defenses.Defense, params: PyTree
) -> None:
    """Checks that each of a defence's own trainables has an optimiser, and no other."""
    given = set(config.get("label_optimizers", ()))
    if defense.labels is None:  # fields that a method does not know are left alone
        return
    known = set(jax.tree.leaves(defense.labels(params))) - {FROZEN}
    for label in sorted(given - known):
        hint = nearest_match(label, known)
        raise ValueError(
            f"`label_optimizers.{label}`: the objective {config['objective']['name']} "
            f"has no trainables of that name. {hint}"
        )
    if missing := known - given - {"model"}:
        name = min(missing)
        raise ValueError(
            f"`label_optimizers` has no {name!r}, trainables of the objective "
            f"{config['objective']['name']}: set --config.label_optimizers="
            f"\"{{'{name}': {{}}}}\", with the fields in which their optimiser differs."
        )
