"""What each field of a config may hold: one table, looked at before any work."""

import inspect
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from jaxrobust import attacks, corruptions, defenses, named_code
from jaxrobust._checks import NORMS, did_you_mean
from jaxrobust.evaluation import suite
from jaxrobust.training import compute, feed, optimizer, writers
from jaxrobust.training.config import base

PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")
# What int32 counters on the devices hold.
_MOST = 2**31 - 1


class Rule(NamedTuple):
    """What a value must be, in words and as a function that says whether it is."""

    says: str
    holds: Callable[[Any], bool]
    known: Sequence[str] = ()


def whole(least: int = 0, most: int = _MOST) -> Rule:
    """A whole number in [least, most]."""
    return Rule(
        f"a whole number from {least} to {most}",
        lambda v: type(v) is int and least <= v <= most,
    )


def number(
    least: float = 0.0,
    most: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> Rule:
    """A finite number in [least, most]; without an end where `above` or `below`."""
    low = f"above {least:g}" if above else f"of at least {least:g}"
    high = f" and {'below' if below else 'at most'} {most:g}" * (most < math.inf)

    def holds(v: Any) -> bool:
        inside = type(v) in (int, float) and least <= v <= most and abs(v) < math.inf
        return inside and not ((above and v == least) or (below and v == most))

    return Rule(f"a finite number {low}{high}", holds)


def choice(known: Sequence[str]) -> Rule:
    """One of some names."""
    named = [repr(name) if name == "" else name for name in known]
    return Rule(f"one of {', '.join(named)}", lambda v: v in known, known)


def choice_or_code(known: Sequence[str]) -> Rule:
    """One of some names, or `package.module:function` of the caller's own."""
    rule = choice(known)
    return rule._replace(holds=lambda v: rule.holds(v) or named_code.names(v))


def each(rule: Rule, *, filled: bool = False, rising: bool = False) -> Rule:
    """A list or tuple of values that a rule holds for."""

    def holds(values: Any) -> bool:
        if not isinstance(values, list | tuple) or not all(map(rule.holds, values)):
            return False
        return not (filled and not values) and not (
            rising and list(values) != sorted(values)
        )

    order = ", from the lowest to the highest" * rising
    least = ", at least one" * filled
    return Rule(f"a list, each {rule.says}{order}{least}", holds)


def number_or_each(rule: Rule) -> Rule:
    """None, a number, or a list with one for each channel."""
    return Rule(
        f"None or {rule.says}, or a list of such",
        lambda v: v is None or rule.holds(v) or each(rule).holds(v),
    )


def _is_radius(value: Any) -> bool:
    try:
        suite.parse_radius(value)
    except ValueError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, str)


FLAG = Rule("True or False", lambda v: isinstance(v, bool))
TEXT = Rule("a text", lambda v: isinstance(v, str) and "\0" not in v)
NAME = Rule("a text, not empty", lambda v: TEXT.holds(v) and bool(v.strip()))
TABLE_OF_FIELDS = Rule("a table of fields", lambda v: isinstance(v, Mapping))
RADIUS = Rule("a number of at least 0 or a fraction such as '8/255'", _is_radius)
PLAIN = Rule("plain data (finite numbers, texts, lists of them)", _is_plain)
SHARE = number(0, 1, below=True)
EPOCHS = number(0, 1e6)
NORM = choice(NORMS)

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
    "precision eval.precision": choice(PRECISIONS),
    "data.name model.name": NAME,
    "data.image_size": whole(0, 16384),
    "data.channels": Rule("0 or 3", lambda v: type(v) is int and v in (0, 3)),
    "data.feed": choice(feed.FEEDS),
    "data.augment.crop_padding": whole(0, 4096),
    "data.augment.random_resized_crop data.augment.probability": number(0, 1),
    "data.augment.rotation": number(0, 180),
    "data.augment.color_jitter": number(0, 1e3),
    "data.augment.hue": number(0, 0.5),
    "data.validation_examples train.batch_size train.accumulate train.log_every_steps "
    "train.save_every_steps validation.batch_size eval.batch_size eval.curve.steps "
    "eval.diagnostics.steps eval.growth.steps eval.analysis.steps": whole(1),
    "model.num_classes": whole(2, 10**7),
    "model.width model.depth": whole(1, 10**5),
    "model.mean": number_or_each(number(-1e6, 1e6)),
    "model.std": number_or_each(number(0, 1e6, above=True)),
    "model.dropout objective.label_smoothing train.ema eval.ci": SHARE,
    "objective.name": choice_or_code(tuple(defenses.FACTORIES)),
    "objective.attack_bn": choice(("", "train", "eval")),
    "objective.beta": number(0, 1e6),
    "objective.margin": number(0, 1),
    "objective.draws": whole(1, 10**6),
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
    "train.epochs train.validate_every_epochs": number(0, 1e6, above=True),
    "train.compute_dtype": choice(compute.DTYPES),
    "eval.suite": Rule(
        f"{choice(('', *suite.SUITES)).says}, or several joined by +, as in "
        f"{suite.OWN}+autoattack",
        suite.is_name,
    ),
    "eval.growth.eps eval.growth.step_size": RADIUS,
    "objective.eps_range eval.within.linf eval.within.l2 eval.within.l1 "
    "eval.curve.eps eval.analysis.eps": each(RADIUS),
    "eval.corruptions.names": each(choice(corruptions.names())),
    "eval.corruptions.severities": each(whole(1, 5), filled=True),
    "eval.grid": whole(0, 10**4),
    "log.writers": each(choice_or_code(tuple(writers.WRITERS))),
    "log.project": NAME,
    "eval.loss_surface.examples": whole(1, 100),
    "eval.loss_surface.points": whole(3, 101),
    "eval.loss_surface.reach": number(0, 100, above=True),
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
    "eval.attacks",
    "eval.own_analyses",
    "eval.robustbench",
    "label_optimizers",
    *_ATTACKS,
)
# The program asks for these, whatever the table around them holds.
_NEEDED = ("model.name", "objective.name", "validation.attack.name")
# Tables whose fields may be left out.
_OPTIONAL = ("objective", "eval.within", "data.augment", *_FREE)


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
            found += _broken(name, value, rules[name])
        elif _inside(name, _FREE) and not closed:
            found += _broken(name, value, PLAIN)
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


def _broken(name: str, value: Any, rule: Rule) -> list[str]:
    """Returns a line where a value is not as a rule says, else nothing."""
    if rule.holds(value):
        return []
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    near = did_you_mean(value, rule.known, 0.6) if isinstance(value, str) else ""
    told = f"`{name}` must be {rule.says}, got {shown}; set --config.{name}. {near}"
    return [told.rstrip()]
