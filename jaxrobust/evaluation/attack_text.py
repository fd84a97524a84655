"""Attacks as text, `pgd:eps=8/255,steps=50,loss=margin`, for command lines."""

import math
import re
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any, get_origin

from jaxrobust import attacks, named_code
from jaxrobust._checks import check_norm, nearest_match
from jaxrobust.attacks import registry
from jaxrobust.attacks.registry import AUTOATTACK
from jaxrobust.evaluation import suite, transfer
from jaxrobust.evaluation.autoattack import entry
from jaxrobust.evaluation.protocols import STEP_SHARE
from jaxrobust.evaluation.text import literal, number, shown

Fields = dict[str, Any]

# Of steps where an attack has no number of its own, as in the suite `gradient`.
STEPS = 20
_MOST = 2**53  # whole numbers of more are no options but mistakes
_FORM = "NAME:option=value,... such as pgd:eps=8/255,steps=50,loss=margin"
# Arrays, what the program itself decides, and what would attack the wrong way round.
_NOT_HERE = (
    "x_init",
    "others",
    "return_trace",
    "stochastic",
    "bounds",
    "targeted",
    "unroll",
)
# Kinds that are no function of `attacks.get`, with their options.
_OTHERS: Mapping[str, Mapping[str, type]] = {
    AUTOATTACK: entry.OPTIONS,
    transfer.NAME: transfer.OPTIONS,
}
_SINGLE_COMMA = re.compile(r",(?![^\[(]*[\])])")


def parse(text: str) -> Fields:
    """Reads one attack, `NAME` or `NAME:option=value,...`, as a table.

    Radii stay text; other values are numbers, fractions, true, false, none or names.

    Raises:
      ValueError: for another form, or an unknown attack or option (with the nearest).
      TypeError: for a value of another kind than the attack's signature has.
    """
    name, colon, rest = _split(text)
    if not name or (colon and not rest.strip()):
        raise ValueError(f"an attack must be {_FORM}, got {shown(text)}.")
    if not registry.known(name) and name not in _OTHERS:
        known = nearest_match(name[:80], (*attacks.names(), *_OTHERS))
        raise ValueError(f"unknown attack {shown(name)}. {known}")
    given: dict[str, str] = {}
    for item in _SINGLE_COMMA.split(rest) if colon else ():
        option, separator, value = (part.strip() for part in item.partition("="))
        if not (option and separator and value):
            raise ValueError(
                f"attack {shown(text)}: {shown(item)} must be option=value."
            )
        if option in given:
            raise ValueError(f"attack {shown(text)}: `{option}` is given twice.")
        given[option] = value
    known = _known(text, name, given.get("attack"))
    fields: Fields = {"name": name}
    for option, value in given.items():
        if option not in known:
            near = nearest_match(option[:80], known)
            raise ValueError(
                f"attack {shown(text)}: {name} has no option {shown(option)}. {near}"
            )
        if named_code.names(name) and _is_structured(known[option]):
            raise TypeError(
                f"attack {shown(text)}: `{option}` is a list, and a text gives "
                "numbers, flags and words: set it in a config, or in a function of "
                "your own that calls this one."
            )
        fields[option] = _value(text, option, value, known[option])
    return fields


def _split(text: str) -> tuple[str, str, str]:
    """Splits off the name, `package.module:function` for code of the caller's own."""
    name, colon, rest = text.strip().partition(":")
    head, more, tail = rest.partition(":")
    own = f"{name.strip()}:{head.strip()}"
    if name.strip() not in (*attacks.names(), *_OTHERS) and registry.known(own):
        return own, more, tail
    return name.strip(), colon, rest


def table(
    texts: Sequence[str],
    *,
    eps: str | float,
    norm: str = "linf",
    transfer_from: str = "",
    draws: int = 0,
) -> dict[str, Fields]:
    """Reads attacks into a table as `config.eval.attacks` has it, checked.

    Without `eps` an attack gets the radius of the evaluation where its norm is the
    evaluation's; in another one, attacks that look for the smallest perturbation take
    any, and the others need an `eps`. Without `steps`, where the attack has no default,
    `STEPS`; without `step_size` 2.5 eps / steps. Attacks on a randomised model average
    over its `draws`. They are called by their names, `pgd`, `pgd_2` ...

    Raises:
      ValueError, TypeError: as `parse` and `suite.read`, and for an attack given twice
        or without an `eps` that it needs.
    """
    found: dict[str, Fields] = {}
    seen = set()
    for text in texts:
        fields = parse(text)
        if (same := repr(sorted(fields.items(), key=str))) in seen:
            raise ValueError(f"attack {shown(text)} is given twice.")
        seen.add(same)
        _complete(text, fields, eps, norm)
        if draws:
            fields = averaged(fields, draws)
        elif fields.get("eot_samples", 1) != 1:
            raise ValueError(
                f"attack {shown(text)}: `eot_samples` averages over a randomised "
                "model's draws; give it with --stochastic."
            )
        own = fields["name"].rpartition(":")[2]
        label, number = own, 2
        while label in found:
            label, number = f"{own}_{number}", number + 1
        found[label] = fields
    suite.read(found, transfer_from)
    return found


def averaged(fields: Mapping[str, Any], draws: int) -> Fields:
    """Returns an attack on a randomised model, which averages over draws of it."""
    if fields["name"] == transfer.NAME:
        raise ValueError("transfer attacks are for networks without randomness.")
    if fields["name"] == AUTOATTACK:
        return {"version": "rand", **fields}
    return {"eot_samples": draws, **fields, "stochastic": True}


def _known(text: str, name: str, inner: str | None) -> Mapping[str, Parameter | type]:
    """Returns the options of an attack; a transfer has those of what it hands over."""
    if name not in _OTHERS:
        own = registry.parameters(name)
        return {k: v for k, v in own.items() if k not in _NOT_HERE}
    if name != transfer.NAME:
        return _OTHERS[name]
    if inner is None or not registry.known(inner):
        raise ValueError(
            f"attack {shown(text)}: transfer needs attack=NAME, the attack to hand "
            f"over. {nearest_match((inner or '')[:80], attacks.names())}"
        )
    return {**_known(text, inner, None), **transfer.OPTIONS}


def _value(text: str, option: str, value: str, known: Parameter | type) -> Any:
    """Reads the value of an option, of the kind that the signature has."""
    if option in suite.RADII:
        if option != "eps" or value.lower() not in ("none", "any"):
            suite.parse_radius(value, f"{option}` of `{text.partition(':')[0]}")
            return value
        return None
    kinds = _kinds(known)
    found = literal(value)
    if found is None and type(None) in kinds:
        return None
    if str in kinds:
        return value
    if float in kinds and not isinstance(found, bool):
        try:
            if math.isfinite(real := number(value)):
                return real
        except ValueError:
            pass
    elif type(found) in kinds and not (isinstance(found, int) and abs(found) > _MOST):
        return found
    large = type(found) is int and abs(found) > _MOST
    whole = "a smaller whole number" if large else "a whole number in digits"
    told = {bool: "true or false", int: whole, float: "a number"}
    wanted = next((told[kind] for kind in told if kind in kinds), "of another kind")
    raise TypeError(
        f"attack {shown(text)}: `{option}` must be {wanted}, got {shown(value)}."
    )


def _is_structured(known: Parameter | type) -> bool:
    """Whether an option is annotated as a list or its like."""
    if isinstance(known, type):
        return False
    members, _ = registry.read_annotation(known)
    plain = {get_origin(one) or one for one in members} - {type(None)}
    return bool(plain) and plain <= {list, tuple, dict, set, Sequence, Mapping}


def _kinds(known: Parameter | type) -> set[Any]:
    """Returns the types that an option takes, by its default or its annotation."""
    if isinstance(known, type):
        return {known}
    members, _ = registry.read_annotation(known)
    plain = members & {bool, int, float, str, type(None)}
    return plain if plain - {type(None)} else {str}


def _complete(text: str, fields: Fields, eps: str | float, norm: str) -> None:
    """Fills in radius, steps and step."""
    name = fields.get("attack", fields["name"])
    if registry.threat(name):  # no ball: it has none of them
        return
    own = {} if name == AUTOATTACK else registry.parameters(name)
    fields.setdefault("norm", suite.own_norm(name) or norm)
    check_norm(fields["norm"])
    smallest = "eps" in own and type(None) in registry.read_annotation(own["eps"])[0]
    if fields.get("eps") is None and not ("eps" in fields and smallest):
        if "eps" not in fields and fields["norm"] == norm:
            fields["eps"] = eps
        elif smallest:
            fields["eps"] = None
        else:
            raise ValueError(
                f"attack {shown(text)} needs an `eps`: the radius of the evaluation, "
                f"{eps}, is of {norm}."
            )
    if "steps" in own and own["steps"].default is Parameter.empty:
        fields.setdefault("steps", STEPS)
    step = own.get("step_size")
    if step is not None and step.default is Parameter.empty:
        radius = suite.parse_radius(fields["eps"] or 0.0)
        share = STEP_SHARE / max(fields["steps"], 1)
        fields.setdefault("step_size", radius * share)
