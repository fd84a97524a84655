"""Attack suites: what a config says, read into attacks."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import attacks, named_code
from jaxrobust._checks import check_bounds, check_choice, check_norm, nearest_match
from jaxrobust.array_types import Norm
from jaxrobust.attacks import registry
from jaxrobust.evaluation import adaptive, protocols, transfer
from jaxrobust.evaluation.autoattack.entry import AutoAttack
from jaxrobust.evaluation.entries import Entry as Entry
from jaxrobust.evaluation.on_host import OnHost
from jaxrobust.evaluation.text import parse_radius as parse_radius
from jaxrobust.results import schema
from jaxrobust.results.npz import CLEAN

RADII = ("eps", "step_size")
_LONGEST = 200  # characters of a name
_LARGE = 1024  # pixels
# What is done one after the other, and how often at most.
_MOST = 10**7
# Where these are 0 an attack does nothing.
_MOVING = dict.fromkeys(("steps", "queries"), "at least 1") | dict.fromkeys(
    ("step_size", "lr", "gamma", "alpha_max"), "above 0"
)
_ANY = (None, "none", "None")  # as configs write that there is no radius


def read(
    table: Mapping[str, Mapping[str, Any]], transfer_from: str = ""
) -> list[Entry]:
    """Reads a config's table of attacks, `{label: {name, norm, eps, ...}}`.

    `eps` None (or 'none', null in JSON) is for attacks that look for the smallest
    perturbation; those whose threat is no ball have none. An entry named `transfer` has
    `attack` with its fields and `source`, a work directory, without which it is
    `transfer_from`. `network` and `loss` may be of `adaptive.NETWORKS` and `.LOSSES`.

    Raises:
      ValueError, TypeError: for a mistake in an entry, named with its label.
    """
    return [_checked(label, fields, transfer_from) for label, fields in table.items()]


def _checked(label: str, fields: Any, transfer_from: str) -> Entry:
    """Reads one attack; every mistake in it is told with its label."""
    try:
        if not isinstance(fields, Mapping):
            raise TypeError(
                "give a table such as {'name': 'pgd', 'eps': '8/255', ...}, got "
                f"{fields!r}."
            )
        check_use(fields)
        entry = _entry(label, dict(fields), transfer_from)
        entry.check()
        # One from outside may be for images of one shape alone.
        if type(entry) is Entry and not named_code.names(entry.name):
            _trace(entry)
    except (ValueError, TypeError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        text = str(error)
        if isinstance(error, OverflowError):
            text = "its counts make more steps than 2^31; set them lower."
        about = "" if text.startswith("attack ") else f"attack {label!r} of the suite: "
        raise kind(f"{about}{text}") from None
    return entry


def _trace(entry: Entry) -> None:
    """Finds what an attack says against its options: traces it, computes nothing."""
    given = entry.hyperparameters
    least = {"steps": 1} if "steps" in given else {}
    if "queries" in given:  # a step asks as often as it averages
        least["queries"] = min(given["queries"], given.get("eot_samples", 1))
    attack = entry.build(**least)
    side = _LARGE if entry.threat else 8  # in which a patch has room
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    y = jax.ShapeDtypeStruct((1,), jnp.int32)

    def stand_in(x: Array, *_: Array) -> Array:  # a randomised network gets keys too
        return x.reshape(len(x), -1)[:, :10]

    call = functools.partial(attack, stand_in)
    jax.eval_shape(call, x, y, jax.random.split(jax.random.key(0), 1))


def notices(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a line for each table of an attack whose ball holds all images there are.

    A radius of 8 is 8/255, as a rule.
    """
    found = []
    for name, fields in tables.items():
        eps, norm = fields.get("eps"), fields.get("norm", "linf")
        if norm != "linf" or eps in _ANY or parse_radius(eps) < 1:
            continue
        found.append(
            f"{name}.eps {eps} is the whole range of images in [0, 1]: "
            f"{eps}/255 is meant?"
        )
    return found


def check_use(fields: Mapping[str, Any]) -> None:
    """Refuses options of an attack that would not attack the images of the program.

    A targeted attack has true labels for targets, which makes images easier.

    Raises:
      ValueError, TypeError: naming the option.
    """
    for name in ("name", "attack", "network", "why"):
        if not isinstance(fields.get(name, ""), str):
            raise TypeError(f"`{name}` must be a text, got {fields[name]!r}.")
    if fields.get("targeted"):
        raise ValueError(
            "`targeted` must be False: the labels are the true ones, and a targeted "
            "attack would make the images easier to classify."
        )
    for name, value in fields.items():
        if name in _MOVING and value in (0, "0"):
            raise ValueError(
                f"`{name}` must be {_MOVING[name]}, got {value}: no image would be "
                "changed."
            )
        if type(value) is int and value > _MOST and name not in RADII:
            raise ValueError(f"`{name}` must be at most {_MOST}, got {value}.")
    bounds = fields.get("bounds", (0.0, 1.0))
    check_bounds(bounds)
    if not (bounds[0] <= 0 and bounds[1] >= 1):
        raise ValueError(f"`bounds` must hold images in [0, 1], got {tuple(bounds)}.")


def _entry(label: str, fields: dict[str, Any], transfer_from: str) -> Entry:
    _need(label, fields, "name")
    threat = registry.threat(fields.get("attack", fields["name"]))
    if threat:
        _without_radius(label, fields, threat)
    _need(label, fields, "eps")
    kind: Callable[..., Entry] = Entry
    if fields["name"] == registry.AUTOATTACK:
        kind = AutoAttack
    elif fields["name"] == transfer.NAME:
        _need(label, fields, "attack")
        fields["name"] = fields.pop("attack")
        source = fields.pop("source", "") or transfer_from
        if not source:
            raise ValueError(f"attack {label!r}: {transfer.NO_SOURCE}.")
        if isinstance(source, list | tuple):
            source = f"[{', '.join(map(str, source))}]"
        mean = fields.pop("mean", transfer.MEANS[0])
        check_choice("mean", mean, transfer.MEANS)
        kind = functools.partial(transfer.Transfer, source=source, mean=mean)
    elif {"why", "network"} & fields.keys() or fields.get("loss") in [*adaptive.LOSSES]:
        own = {name: fields.pop(name, "") for name in ("network", "why")}
        if (network := own["network"]) not in ("", *adaptive.NETWORKS):
            told = nearest_match(network, adaptive.NETWORKS)
            raise ValueError(f"unknown network to attack {network!r}. {told}")
        kind = functools.partial(adaptive.Adaptive, **own)
    elif registry.on_host(fields["name"]):
        kind = OnHost
    name, eps = fields.pop("name"), fields.pop("eps")
    norm = _norm(label, name, fields.pop("norm", None))
    if "step_size" in fields:
        fields["step_size"] = parse_radius(fields["step_size"], "step_size")
    if "bounds" in fields:  # a list after a config went through JSON
        fields["bounds"] = tuple(fields["bounds"])
    if eps in _ANY:
        return kind(label, name, norm, None, threat or "any", fields)
    return kind(label, name, norm, parse_radius(eps, "eps"), str(eps), fields)


def _without_radius(label: str, fields: dict[str, Any], threat: str) -> None:
    """Refuses a radius and a norm of an attack whose threat is no ball."""
    given = {k: fields.pop(k) for k in ("eps", "norm") if k in fields}
    if wrong := [k for k, value in given.items() if value not in _ANY]:
        raise ValueError(
            f"attack {label!r}: its threat ({threat}) is no ball of a norm, so it has "
            f"no `{wrong[0]}`, got {given[wrong[0]]!r}; options of its own say how far "
            "it may go."
        )
    fields["eps"] = None


def _need(label: str, fields: Mapping[str, Any], *names: str) -> None:
    if label == CLEAN:
        raise ValueError("no attack can be called 'clean': the images without one are.")
    if not label.strip() or not label.isprintable():
        raise ValueError(f"attack {label!r} needs a name of one line of text.")
    if len(label) > _LONGEST:
        raise ValueError(
            f"attack {label[:20]!r}... has a name of {len(label)} characters; at most "
            f"{_LONGEST} make sense."
        )
    for name in names:
        if name not in fields:
            raise ValueError(f"attack {label!r} of the suite has no `{name}`.")


def own_norm(name: str) -> Norm | None:
    """Returns the norm that an attack takes where a config names none."""
    traits = registry.traits(name)
    return traits and traits.norm


def _norm(label: str, name: str, given: Norm | None) -> Norm:
    """Returns the norm of an attack, which may have only one of its own."""
    if name == registry.AUTOATTACK:
        check_norm(given or "linf")
        return given or "linf"
    known = attacks.hyperparameters(name)  # an unknown name is said first
    own = own_norm(name)
    if own and given not in (None, own) and "norm" not in known:
        raise ValueError(
            f"attack {label!r}: {name} works in norm {own!r} alone, got {given!r}."
        )
    return given or own or "linf"


ADAPTIVE = "adaptive"
# These attack within the first radius of `config.eval.attacks`.
_OF_FIRST_RADIUS = (registry.AUTOATTACK, ADAPTIVE)
OWN = "attacks"  # the table in `config.eval.attacks`, where suites are joined
SUITES: tuple[str, ...] = (
    *_OF_FIRST_RADIUS,
    *protocols.OF_THREAT,
    *protocols.OF_DATA,
)


def get(
    name: str,
    *,
    data: str = protocols.DEFAULT,
    eps: str | None = None,
    step_size: str | None = None,
    norm: Norm = "linf",
    method: str = "",
) -> dict[str, dict[str, Any]]:
    """Returns a named suite as a config writes it, pending attacks included.

    They are `gradient` (FGSM, PGD-20 with a random start, uniform noise), `ssp2020`
    (the same without the random start), `transfer` (attacks on another network that are
    meant for that), `autoattack` (its standard version), `adaptive` (see `adaptive`;
    `method` is the defence), and the papers' of `protocols.OF_DATA`.
    Their radii are those of the data set `data`, of CIFAR-10 where no paper has it;
    `eps` and `norm` are for the first five, `step_size` for the first three.

    Raises:
      ValueError: for an unknown name, or a radius for a suite that has its own.
    """
    if name in protocols.OF_THREAT:
        usual = protocols.threat_of(data)
        return protocols.OF_THREAT[name](
            usual.eps if eps is None else eps,
            usual.step_size if step_size is None else step_size,
            norm,
        )
    if name in _OF_FIRST_RADIUS:
        eps = protocols.threat_of(data).eps if eps is None else eps
        if name == ADAPTIVE:
            return adaptive.table(method, eps, norm)
        return {name: protocols.attack(name, eps, norm)}
    if name not in protocols.OF_DATA:
        told = nearest_match(name, SUITES)
        raise ValueError(f"unknown suite {name!r}. {told}")
    for field, value in (("eps", eps), ("step_size", step_size)):
        if value is not None:
            raise ValueError(
                f"suite {name!r} has the paper's radii: leave `{field}` out, got "
                f"{value!r}."
            )
    return protocols.OF_DATA[name](data)


def chosen(
    fields: Mapping[str, Any], data: str, method: str = ""
) -> tuple[list[Entry], list[schema.Pending]]:
    """Returns the attacks of `config.eval`, and those of its suite that are pending.

    See `table` for the arguments.

    Raises:
      ValueError, TypeError: as `get` and `read`.
    """
    source = fields.get("transfer_from", "")
    found = table(fields, data, method)
    if not fields.get("suite", ""):
        return read(found, source), []
    ready, pending = {}, []
    for label, entry in found.items():
        if entry["name"] == transfer.NAME and not (entry.get("source") or source):
            told: Any = {"name": transfer.NAME, "reason": transfer.NO_SOURCE}
            pending.append(schema.Pending(label=label, **told))
        else:
            ready[label] = entry
    return read(ready, source), pending


def table(
    fields: Mapping[str, Any], data: str, method: str = ""
) -> Mapping[str, Mapping[str, Any]]:
    """Returns the attacks that `config.eval` asks for, as a config writes them.

    `suite` is a protocol's name, or '' (or no such field) for the table in `attacks`,
    whose first radius the suites `autoattack` and `adaptive` take; several joined by
    `+` are one suite, `attacks` among them for that table. `method` is the defence, as
    `adaptive.method_of` returns it.

    Raises:
      ValueError: as `get`.
    """
    own = fields.get("attacks", {})
    tables = []
    for one in (fields.get("suite", "") or OWN).split("+"):
        options = {}
        if one in _OF_FIRST_RADIUS:
            options = {"method": method, **first_threat(own)}
        found = own if one == OWN else get(one, data=data, **options)
        tables.append((one, found))
    return _joined(tables)


def _joined(tables: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Returns the attacks of several suites; what an earlier one has is left out.

    An attack whose label another one has gets the name of its suite in front.
    """
    found: dict[str, Any] = {}
    for name, attacks_of in tables:
        own = {k: v for k, v in attacks_of.items() if v not in found.values()}
        found |= {f"{name}_{k}" if k in found else k: v for k, v in own.items()}
    return found


def is_name(name: Any) -> bool:
    """Whether `config.eval.suite` can be this: a suite, several joined by +, or ''."""
    parts = name.split("+") if isinstance(name, str) and name else []
    return name == "" or (bool(parts) and set(parts) <= {OWN, *SUITES})


def first_threat(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns radius and norm of a table's first attack that has a radius."""
    for entry in table.values():
        if entry.get("eps") not in _ANY:
            parse_radius(entry["eps"])
            return {"eps": str(entry["eps"]), "norm": entry.get("norm", "linf")}
    return {}
