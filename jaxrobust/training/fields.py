"""What each field of a config may hold: one table, looked at before any work."""

import inspect
from collections.abc import Container, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict

from jaxrobust import attacks, defenses, named_code
from jaxrobust._checks import NORMS, did_you_mean
from jaxrobust.evaluation import analyses, suite
from jaxrobust.evaluation.rules import (
    FLAG,
    NAME,
    PLAIN,
    RADIUS,
    TABLE_OF_FIELDS,
    TEXT,
    Rule,
    broken,
    choice,
    choice_or_code,
    each,
    number,
    number_or_each,
    whole,
)
from jaxrobust.evaluation.step import FAST, PRECISIONS
from jaxrobust.training import compute, feed, optimizer, writers
from jaxrobust.training.config import base

SHARE = number(0, 1, below=True)
EPOCHS = number(0, 1e6)
WHOLE_EPOCHS = Rule(
    "a whole number from 0 to 1e+06", lambda v: EPOCHS.holds(v) and v == int(v)
)
NORM = choice(NORMS)
# More blocks would be built for minutes before anything is said. What else stands there
# is the network's own matter.
_MOST_BLOCKS = 1000
NOT_ENDLESS = Rule(
    f"at most {_MOST_BLOCKS}, or a list of such numbers",
    lambda v: all(
        not isinstance(n, int | float) or n <= _MOST_BLOCKS
        for n in (v if isinstance(v, list | tuple) else [v])
    ),
)

# Of an optimiser, the main one's and those of `label_optimizers`. Rates are float32.
_OPTIMIZER: dict[str, Rule] = {
    "name": choice(optimizer.OPTIMIZERS),
    "learning_rate": number(1e-30, 1e6),
    "momentum": SHARE,
    "nesterov": FLAG,
    "b1": SHARE,
    "b2": SHARE,
    "weight_decay": number(0, 1e6),
    "clip_norm": number(0, 1e30),
}
# What fields hold: by their names, several where it is the same.
_RULES: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "twin": choice_or_code(("", *defenses.FACTORIES)),
    "precision": choice(PRECISIONS),
    "eval.precision": choice((*PRECISIONS, FAST)),
    "data.name model.name": NAME,
    "data.image_size": whole(0, 16384),
    "data.channels": Rule("0 or 3", lambda v: type(v) is int and v in (0, 3)),
    "data.feed": choice(feed.FEEDS),
    "data.extra.share": SHARE,
    "data.augment.crop_padding data.augment.cutout": whole(0, 4096),
    "data.augment.rand_augment": whole(0, 14),
    "data.augment.rand_magnitude": number(0, 30),
    "data.augment.random_resized_crop data.augment.probability": number(0, 1),
    "data.augment.rotation": number(0, 180),
    "data.augment.color_jitter": number(0, 1e3),
    "data.augment.hue": number(0, 0.5),
    "data.mix.mixup data.mix.cutmix": number(0, 1e3),
    "data.validation_examples train.batch_size train.accumulate train.log_every_steps "
    "train.save_every_steps validation.batch_size eval.batch_size": whole(1),
    "model.num_classes": whole(2, 10**7),
    "model.width": whole(1, 10**5),
    "model.depth": whole(1, 2000),
    "model.blocks model.layers": NOT_ENDLESS,
    "model.mean": number_or_each(number(-1e6, 1e6)),
    "model.std": number_or_each(number(0, 1e6, above=True)),
    "model.dropout objective.label_smoothing train.ema eval.ci": SHARE,
    "objective.name": choice_or_code(tuple(defenses.FACTORIES)),
    "objective.attack_bn": choice(("", "train", "eval")),
    "objective.beta": number(0, 1e6),
    "objective.margin objective.kappa": number(0, 1),
    "objective.small_box": number(0, 1, above=True),
    "objective.sigma objective.inverse_temperature": number(0, 1e6, above=True),
    "objective.radius_weight objective.hinge": number(0, 1e6),
    "objective.draws objective.noise_draws": whole(1, 10**6),
    "objective.start": choice(defenses.STARTS),
    "objective.noise objective.grad_align": number(0, 1e3),
    "objective.slack": number(0, 2),
    "objective.gamma": number(0, 1e6),
    "objective.helper": TEXT,
    "objective.helper_scale": number(0, 1e3),
    "objective.replays": whole(1, 100),
    "objective.awp_gamma": number(0, 1e3),
    "objective.attack_name": choice_or_code(("", *attacks.names())),
    "objective.layers": each(NAME),
    "objective.attack_warmup_epochs objective.awp_warmup_epochs": EPOCHS,
    **{f"optimizer.{name}": rule for name, rule in _OPTIMIZER.items()},
    "schedule.name": choice(optimizer.SCHEDULES),
    "schedule.milestones": each(EPOCHS, rising=True),
    "schedule.factor": number(0, 1, above=True),
    "schedule.scales": each(number(0, 1e6)),
    "schedule.warmup_epochs": EPOCHS,
    "train.swa_epochs": WHOLE_EPOCHS,
    "schedule.peak": number(0, 1, above=True),
    "train.epochs train.validate_every_epochs": number(0, 1e6, above=True),
    "train.compute_dtype": choice(compute.DTYPES),
    "eval.suite": Rule(
        f"{choice(('', *suite.SUITES)).says}, or several joined by +, as in "
        f"{suite.OWN}+autoattack",
        suite.is_name,
    ),
    "objective.eps_range objective.radii": each(RADIUS),
    "objective.norms": each(NORM),
    "objective.mix": choice(defenses.MIXES),
    "eval.grid": whole(0, 10**4),
    "log.writers": each(choice_or_code(tuple(writers.WRITERS))),
    "log.project": NAME,
    **analyses.rules(),
}
# A field that is not here is of its default's type, and a number at least 0.
TABLE = {name: rule for names, rule in _RULES.items() for name in names.split()}
# Of the attacks of training and validation; `attacks.get` looks at the others.
_ATTACK: dict[str, Rule] = {
    "eps": RADIUS,
    "step_size": RADIUS,
    "steps": whole(1, 10**6),
    "norm": NORM,
}
_ATTACKS = ("attack", "validation.attack")
# Tables of a user's own making: beside what is said above they hold plain data, and
# what reads them knows their fields.
_FREE = (
    "model",
    "objective.guide",
    "eval.attacks",
    "eval.own_analyses",
    "eval.robustbench",
    "label_optimizers",
    *_ATTACKS,
)
# The program asks for these, whatever the table around them holds.
_NEEDED = ("model.name", "objective.name", "validation.attack.name")
# Tables whose fields may be left out.
_OPTIONAL = ("objective", "eval.within", "data.augment", "data.mix", *_FREE)


def problems(config: Mapping[str, Any], only: Sequence[str] = ()) -> list[str]:
    """Returns what is wrong with the fields of a config, a line for each.

    Unknown fields (with the nearest), missing ones, and values out of range, with the
    field, the value and what it must be. `config` is a plain dictionary, as
    `config.base` has it; `only` are tables and fields to look at, all by default.
    """
    default = _leaves(base().to_dict()) | _of_objectives(config)
    given = _leaves(config, ends=default.keys() | TABLE.keys())
    if only:
        default, given = (
            {name: value for name, value in leaves.items() if _inside(name, only)}
            for leaves in (default, given)
        )
    rules = _rules(default, given)
    found, flat = [], []
    for name, value in given.items():
        head = name.rpartition(".")[0]
        closed = head in _ATTACKS or _inside(head, ["label_optimizers"])
        if name in rules:
            found += broken(name, value, rules[name])
        elif _inside(name, _FREE) and not closed:
            found += broken(name, value, PLAIN)
        elif any(known.startswith(f"{name}.") for known in default):
            flat.append(name)
            found.append(f"`{name}` must be a table of fields, got {value!r}.")
        else:
            found.append(f"config has no field {name!r}. {did_you_mean(name, rules)}")
    missing = [
        name
        for name in default.keys() - given.keys()
        if name in _NEEDED or not _inside(name, (*_OPTIONAL, *flat))
    ]
    return found + [
        f"config has no field `{name}`: start from jaxrobust.training.config.base(), "
        "which has them all, and change some."
        for name in sorted(missing)
    ]


def _leaves(tree: Mapping[str, Any], ends: Container[str] = ()) -> dict[str, Any]:
    """Returns fields by names with dots; those in `ends` are fields, not tables."""

    def named(path: Sequence[Any]) -> str:
        return ".".join(map(str, path))

    flat = flatten_dict(dict(tree), is_leaf=lambda path, _: named(path) in ends)
    return {named(path): value for path, value in flat.items()}


def _inside(name: str, tables: Sequence[str]) -> bool:
    return name in tables or name.startswith(tuple(f"{table}." for table in tables))


def _of_objectives(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that the objectives know, with a default of their type.

    Objectives of the caller's own are those that the config names.
    """
    found: dict[str, Any] = {}
    fields = config.get("objective")
    named = (
        fields.get("name") if isinstance(fields, Mapping) else None,
        config.get("twin"),
    )
    own = [defenses.factory(name) for name in named if named_code.names(name)]
    for factory in (*defenses.FACTORIES.values(), *own):
        for name, parameter in inspect.signature(factory).parameters.items():
            if name.endswith("_steps"):
                found[f"objective.{name[:-6]}_epochs"] = 0.0
            elif name not in ("name", "model", "attack"):
                found[f"objective.{name}"] = parameter.default
    return found


def _rules(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Rule]:
    """Returns the rule of every field there is, from the defaults of all."""
    by_kind = {bool: FLAG, str: TEXT, int: whole(), float: number()}
    own = {k: v for k, v in default.items() if not _inside(k, _FREE)}
    rules = {k: by_kind.get(type(value), PLAIN) for k, value in own.items()} | TABLE
    for name, rule in rules.items():
        if name.startswith("objective.") and name != "objective.name":
            # None and '' leave an option to the method.
            rules[name] = rule._replace(
                says=f"None or {rule.says}",
                holds=lambda v, rule=rule: v in (None, "") or rule.holds(v),
            )
    # Names of attacks in the config may be of the caller's own code.
    named = [v for k, v in given.items() if k.endswith(("attack.name", "attack_name"))]
    options = {
        option
        for name in (*attacks.names(), *filter(named_code.names, named))
        for option in attacks.hyperparameters(name)
    }
    for head in _ATTACKS:
        of_attack = dict.fromkeys(("name", *options), PLAIN) | _ATTACK
        rules |= {f"{head}.{option}": rule for option, rule in of_attack.items()}
    for name in given:
        head = name.rpartition(".")[0]
        if head == "label_optimizers":
            rules[name] = TABLE_OF_FIELDS
        elif head.startswith("label_optimizers."):
            rules |= {f"{head}.{field}": rule for field, rule in _OPTIMIZER.items()}
    return rules
