"""What each field of a config may hold: one table, looked at before any work."""

import difflib
import inspect
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxrobust import attacks, corruptions, defenses, named_code
from jaxrobust.evaluation import suite
from jaxrobust.training import compute, feed, optimizer
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

    def holds(value: Any) -> bool:
        return type(value) is int and least <= value <= most

    return Rule(f"a whole number from {least} to {most}", holds)


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

    def holds(value: Any) -> bool:
        fine = type(value) in (int, float) and math.isfinite(value)
        inside = fine and least <= value <= most
        return inside and not ((above and value == least) or (below and value == most))

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
NORM = choice(("linf", "l2", "l1"))

# Of an optimiser, the main one's and those of `label_optimizers`. Rates are float32.
_OPTIMIZER: Mapping[str, Rule] = MappingProxyType(
    {
        "name": choice(optimizer.OPTIMIZERS),
        "learning_rate": number(1e-30, 1e6),
        "momentum": SHARE,
        "nesterov": FLAG,
        "b1": SHARE,
        "b2": SHARE,
        "weight_decay": number(0, 1e6),
        "clip_norm": number(0, 1e30),
    }
)

# What several fields hold, by the words of their names.
_SHARED: Sequence[tuple[Rule, str]] = (
    (NAME, "data.name model.name"),
    (
        whole(1),
        "data.validation_examples train.batch_size train.accumulate "
        "train.log_every_steps train.save_every_steps validation.batch_size "
        "eval.batch_size eval.curve.steps eval.diagnostics.steps eval.growth.steps "
        "eval.analysis.steps",
    ),
    (whole(1, 10**5), "model.width model.depth"),
    (SHARE, "model.dropout objective.label_smoothing train.ema eval.ci"),
    (
        number(0, 1),
        "data.augment.random_resized_crop data.augment.probability objective.margin",
    ),
    (
        EPOCHS,
        "objective.attack_warmup_epochs objective.awp_warmup_epochs "
        "schedule.warmup_epochs",
    ),
    (number(0, 1e6, above=True), "train.epochs train.validate_every_epochs"),
    (choice(PRECISIONS), "precision eval.precision"),
    (RADIUS, "eval.growth.eps eval.growth.step_size"),
    (
        each(RADIUS),
        "objective.eps_range eval.within.linf eval.within.l2 eval.within.l1 "
        "eval.curve.eps eval.analysis.eps",
    ),
)
# A field that is not here is of its default's type, and a number at least 0.
TABLE: Mapping[str, Rule] = MappingProxyType(
    {
        **{name: rule for rule, names in _SHARED for name in names.split()},
        "seed": whole(0, 2**32 - 1),
        "twin": choice_or_code(("", *defenses.FACTORIES)),
        "data.image_size": whole(0, 16384),
        "data.channels": Rule("0 or 3", lambda v: type(v) is int and v in (0, 3)),
        "data.feed": choice(feed.FEEDS),
        "data.augment.crop_padding": whole(0, 4096),
        "data.augment.rotation": number(0, 180),
        "data.augment.color_jitter": number(0, 1e3),
        "data.augment.hue": number(0, 0.5),
        "model.num_classes": whole(2, 10**7),
        "model.mean": number_or_each(number(-1e6, 1e6)),
        "model.std": number_or_each(number(0, 1e6, above=True)),
        "objective.name": choice_or_code(tuple(defenses.FACTORIES)),
        "objective.attack_bn": choice(("", "train", "eval")),
        "objective.beta": number(0, 1e6),
        "objective.draws": whole(1, 10**6),
        "objective.awp_gamma": number(0, 1e3),
        "objective.attack_name": choice_or_code(("", *attacks.names())),
        "objective.layers": each(NAME),
        **{f"optimizer.{name}": rule for name, rule in _OPTIMIZER.items()},
        "schedule.name": choice(optimizer.SCHEDULES),
        "schedule.milestones": each(EPOCHS, rising=True),
        "schedule.factor": number(0, 1, above=True),
        "schedule.scales": each(number(0, 1e6)),
        "train.compute_dtype": choice(compute.DTYPES),
        "eval.suite": choice(("", *suite.SUITES)),
        "eval.corruptions.names": each(choice(corruptions.names())),
        "eval.corruptions.severities": each(whole(1, 5), filled=True),
        "eval.grid": whole(0, 10**4),
    }
)
# Of the attacks of training and validation; `attacks.get` looks at the others.
_ATTACK: Mapping[str, Rule] = MappingProxyType(
    {"eps": RADIUS, "step_size": RADIUS, "steps": whole(1, 10**6), "norm": NORM}
)
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

    Args:
      config: as `config.base` has it, a plain dictionary.
      only: tables and fields to look at; all by default.

    Returns:
      Unknown fields (with the nearest), missing ones, and values out of range, with the
      field, the value and what it must be; empty where nothing is wrong.
    """
    default = dict(_leaves(base().to_dict())) | _of_objectives(config)
    given = dict(_leaves(config, ends=default.keys() | TABLE.keys()))
    own = [v for k, v in given.items() if k.endswith(("attack.name", "attack_name"))]
    if only:
        default, given = (
            {name: value for name, value in leaves.items() if _inside(name, only)}
            for leaves in (default, given)
        )
    found, flat = [], []
    for name, value in given.items():
        rule, known = _rule(name, default, own)
        if rule is None and _is_table(name, default):
            flat.append(name)
            found.append(f"`{name}` must be a table of fields, got {value!r}.")
        elif rule is None:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            found.append(f"config has no field {name!r}. Did you mean {near[0]!r}?")
        elif not rule.holds(value):
            found.append(_told(name, value, rule))
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


def _leaves(
    tree: Mapping[str, Any], prefix: str = "", ends: Container[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Yields fields with names in dots; those in `ends` are fields, not tables."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in ends:
            yield from _leaves(value, f"{name}.", ends)
        else:
            yield name, value


def _is_table(name: str, default: Mapping[str, Any]) -> bool:
    """Says whether there are fields below a name."""
    return name in _FREE or any(field.startswith(f"{name}.") for field in default)


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
            if name in ("name", "model", "attack"):
                continue
            if name.endswith("_steps"):
                found[f"objective.{name[:-6]}_epochs"] = 0.0
            else:
                found[f"objective.{name}"] = parameter.default
    return found


def _rule(
    name: str, default: Mapping[str, Any], own: Sequence[Any]
) -> tuple[Rule | None, Iterable[str]]:
    """Returns the rule of a field, or none and the fields that there are.

    `default` has all of them, `own` the names of attacks in the config, of which some
    may be of the caller's own code.
    """
    head, _, last = name.rpartition(".")
    if head in _ATTACKS:
        known = {
            option
            for a in (*attacks.names(), *filter(named_code.names, own))
            for option in attacks.hyperparameters(a)
        }
        rule = _ATTACK.get(last, PLAIN if last in known | {"name"} else None)
        return rule, [f"{head}.{option}" for option in known]
    if head == "label_optimizers":
        return TABLE_OF_FIELDS, ()
    if head.startswith("label_optimizers."):
        return _OPTIMIZER.get(last), [f"{head}.{field}" for field in _OPTIMIZER]
    if name not in TABLE and _inside(name, _FREE):
        return PLAIN, ()
    if name not in TABLE and name not in default:
        return None, default
    rule = TABLE.get(name) or _like(default[name])
    if head != "objective" or last == "name":
        return rule, ()

    def holds(value: Any) -> bool:  # None and '' leave an option to the method
        return value in (None, "") or rule.holds(value)

    return rule._replace(says=f"None or {rule.says}", holds=holds), ()


def _like(value: Any) -> Rule:
    """Returns the rule of a field that has this default."""
    rules = {bool: FLAG, str: TEXT, int: whole(), float: number()}
    return rules.get(type(value), PLAIN)


def _told(name: str, value: Any, rule: Rule) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    near = isinstance(value, str) and difflib.get_close_matches(value, rule.known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"`{name}` must be {rule.says}, got {shown}; set --config.{name}.{hint}"
