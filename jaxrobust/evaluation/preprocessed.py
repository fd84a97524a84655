"""A network behind a defence that preprocesses its images, `jpeg:quality=75+median`.

The defence is differentiated past what has no gradient, and what is random is attacked
by the mean over draws, so that every attack of a suite is one on the whole defence.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from jaxrobust import models, preprocessing
from jaxrobust._checks import nearest_match
from jaxrobust.array_types import LogitsFn, Variables
from jaxrobust.data import Dataset
from jaxrobust.evaluation import adaptive, analyses, attack_text, external, suite
from jaxrobust.evaluation.text import literal, shown

DRAWS = 20  # of a random defence, per step and to judge it
_WRAPPERS: Mapping[str, Callable[..., LogitsFn]] = {
    name: getattr(preprocessing, name)
    for name in ("bit_depth", "jpeg", "median", "resize_and_pad", "total_variation")
}
_RANDOM = ("resize_and_pad",)
# Parts of `config.eval`, and the fields that turn them on.
_OF_ONE_DRAW = {"corruptions": "enabled", "corruption_set": "path"}
_OF_ONE_DRAW |= {"certify": "enabled"}
_FORM = "NAME:option=value,... such as jpeg:75 or jpeg:quality=75+median:window=3"


class Change(NamedTuple):
    """One change of the images, with its options."""

    name: str
    options: Mapping[str, Any]


def read(text: str) -> list[Change]:
    """Reads `NAME`, `NAME:VALUE` (of its first option) or `NAME:option=value,...`.

    Several are joined by `+`, the first to see the image first.

    Raises:
      ValueError: for another form, an unknown name or option (with the nearest), or a
        value that it does not take.
    """
    found = [_step(part.strip()) for part in text.split("+")] if text else []
    around(found, lambda x, *_: x)  # says what is wrong with a value
    return found


def _step(text: str) -> Change:
    name, colon, rest = text.partition(":")
    if name not in _WRAPPERS:
        hint = nearest_match(name[:80], _WRAPPERS)
        raise ValueError(f"unknown preprocessing {shown(text)}. {hint}")
    known = [*inspect.signature(_WRAPPERS[name]).parameters]
    known = [option for option in known if option not in ("logits_fn", "stochastic")]
    options: dict[str, Any] = {}
    for item in rest.split(",") if colon else ():
        option, separator, value = item.rpartition("=")
        option = option.strip() if separator else known[0]
        if not value.strip() or option in options:
            raise ValueError(f"preprocessing must be {_FORM}, got {shown(text)}.")
        if option not in known:
            told = f"{name} has no option {shown(option)}"
            hint = nearest_match(option[:80], known)
            raise ValueError(f"preprocessing {shown(text)}: {told}. {hint}")
        options[option] = literal(value)
    return Change(name, options)


def around(
    steps: list[Change], logits_fn: LogitsFn, *, stochastic: bool = False
) -> LogitsFn:
    """Puts the steps in front of a function, which may be `stochastic` itself."""
    for name, options in reversed(steps):
        more = {"stochastic": stochastic} if name in _RANDOM else {}
        try:
            logits_fn = _WRAPPERS[name](logits_fn, **options, **more)
        except TypeError as error:
            raise ValueError(f"preprocessing {name}: {error}") from None
        stochastic = stochastic or name in _RANDOM
    return logits_fn


def defended(
    model: nn.Module, variables: Variables, config: Mapping[str, Any], dataset: Dataset
) -> tuple[nn.Module, Variables, Mapping[str, Any]]:
    """Returns the network that `config.eval.preprocessing` defends, and its config.

    Without any all is as it was. Raises as `fields_behind`, before the network is
    called.
    """
    steps = read(config["eval"].get("preprocessing", ""))
    if not steps:
        return model, variables, config
    own = getattr(model, "draws", 0)
    fields = fields_behind(config, own)
    network, captured = external.wrap(
        around(steps, models.logits_fn(model, variables), stochastic=own > 0),
        dataset,
        draws=max(own, DRAWS * _draws(steps)),
        black_box=getattr(model, "black_box", False),
    )
    return network, captured, {**config, "eval": fields}


def fields_behind(config: Mapping[str, Any], own_draws: int = 0) -> Mapping[str, Any]:
    """Returns `config.eval` as it is for the network behind its `preprocessing`.

    In front of a random one the attacks average over `DRAWS` draws, and analyses that
    need one set of logits are left out, unless the network draws by itself (by
    `own_draws` it is judged) and its caller has seen to that.

    Raises:
      ValueError: for mistakes in `preprocessing`, and for attacks and analyses that are
        not for a network behind it.
    """
    fields = config["eval"]
    steps = read(fields.get("preprocessing", ""))
    if not steps:
        return fields
    random = _draws(steps)
    if random:
        _refuse_single_draws(fields)
    table = suite.table(fields, config["data"]["name"], adaptive.method_of(config))
    for label, entry in table.items():
        if {"network"} & entry.keys() or entry.get("loss") in [*adaptive.LOSSES]:
            raise ValueError(
                f"attack {label!r} is on parts of the network, which has "
                "`eval.preprocessing` in front: leave one of both out."
            )
    if random and not own_draws:
        table = {k: attack_text.averaged(v, DRAWS) for k, v in table.items()}
        fields = {**fields, **_without_single_draws(fields), "suite": ""}
        fields = {**fields, "attacks": table}
    return fields


def _draws(steps: list[Change]) -> bool:
    return any(step.name in _RANDOM for step in steps)


def _refuse_single_draws(fields: Mapping[str, Any]) -> None:
    """Raises ValueError where something is asked for that one draw would answer."""
    for name, field in _OF_ONE_DRAW.items():
        if fields.get(name, {}).get(field):
            raise ValueError(
                f"`eval.{name}.{field}` is for networks without randomness, and "
                "`eval.preprocessing` draws at random: leave one of both out."
            )


def _without_single_draws(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the analyses, without those of a network that draws nothing."""
    parts = {
        name: {**part, **fields.get(name, {})}
        for name, part in analyses.defaults().items()
    }
    analyses.leave_out(parts, "ATTACKS")
    analyses.leave_out(parts, "DIFFERENTIATES")
    return parts
