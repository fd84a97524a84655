"""Attack suites: what a config says, read into attacks."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from jaxrobust import attacks
from jaxrobust.array_types import Bounds, Norm
from jaxrobust.evaluation import protocols, step, verify

RADII = ("eps", "step_size")


def parse_radius(value: str | float, name: str = "eps") -> float:
    """Reads `'8/255'`, `'0.3'` or a number.

    Args:
      value: what a config holds.
      name: of the field, for the message.

    Raises:
      ValueError: if it is no number or fraction, negative or not finite.
    """
    try:
        radius = float(Fraction(value))
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        radius = -1.0
    if radius < 0:
        raise ValueError(
            f"`{name}` must be a number of at least 0 or a fraction such as '8/255', "
            f"got {value!r}."
        )
    return radius


@dataclasses.dataclass(frozen=True)
class Entry:
    """One attack of a suite.

    Attributes:
      label: its name in this suite, such as `pgd20`.
      name: of the algorithm, as in `attacks.get`.
      norm: of the ball.
      eps: radius of the ball.
      written: `eps` as the config writes it, `'8/255'`.
      hyperparameters: all else that the algorithm takes.
    """

    label: str
    name: str
    norm: Norm
    eps: float
    written: str
    hyperparameters: Mapping[str, Any]

    def build(self) -> step.Attack:
        """Returns the attack, `(logits_fn, x, y, key) -> x_adv`."""
        return attacks.get(
            self.name, eps=self.eps, norm=self.norm, **self.hyperparameters
        )

    def ball(self) -> verify.Ball:
        """Returns the threat that its images must keep to."""
        bounds: Bounds = self.hyperparameters.get("bounds", (0.0, 1.0))
        return verify.Ball(self.eps, self.norm, bounds)

    def describe(self) -> dict[str, Any]:
        """Returns what results.json says about the attack itself."""
        return {
            "label": self.label,
            "name": self.name,
            "norm": self.norm,
            "eps": self.eps,
            "eps_text": self.written,
            **self.hyperparameters,
        }


class Pending(NamedTuple):
    """An attack of a protocol that cannot run yet, and why."""

    label: str
    name: str
    reason: str


def read(table: Mapping[str, Mapping[str, Any]]) -> list[Entry]:
    """Reads a config's table of attacks, `{label: {name, norm, eps, ...}}`.

    Raises:
      ValueError: for an entry without `name` or `eps`, a bad radius, an unknown attack
        or an unknown hyperparameter.
    """
    entries = [_entry(label, dict(fields)) for label, fields in table.items()]
    for entry in entries:
        entry.build()  # an unknown name or field is said now, not after hours
    return entries


def _entry(label: str, fields: dict[str, Any]) -> Entry:
    missing = [field for field in ("name", "eps") if field not in fields]
    if missing:
        raise ValueError(f"attack {label!r} of the suite has no `{missing[0]}`.")
    name, norm, eps = fields.pop("name"), fields.pop("norm", "linf"), fields.pop("eps")
    attacks.hyperparameters(name)  # unknown or pending: said before its radius
    if "step_size" in fields:
        fields["step_size"] = parse_radius(fields["step_size"], "step_size")
    radius = parse_radius(eps, "eps")
    if "bounds" in fields:  # a list after a config went through JSON
        fields["bounds"] = tuple(fields["bounds"])
    return Entry(label, name, norm, radius, str(eps), fields)


SUITES: tuple[str, ...] = (*protocols.OF_THREAT, *protocols.OF_DATA)


def get(
    name: str,
    *,
    data: str = protocols.DEFAULT,
    eps: str | None = None,
    step_size: str | None = None,
    norm: Norm = "linf",
) -> dict[str, dict[str, Any]]:
    """Returns a named suite as a config writes it, pending attacks included.

    Args:
      name: `gradient` (FGSM, PGD-20 with a random start, uniform noise), `ssp2020` (the
        same without the random start), `pcl2019`, `fpd2020`, `pclc2021` or `ssc2024`
        (see `protocols`).
      data: name of the data set, which decides the radii where a paper's depend on it;
        one that no paper has gets those of CIFAR-10.
      eps: another radius, for `gradient` and `ssp2020`.
      step_size: another step of the iterative attacks, for the same.
      norm: of the ball, for the same.

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
    if name not in protocols.OF_DATA:
        raise ValueError(unknown("suite", name, SUITES))
    for field, value in (("eps", eps), ("step_size", step_size)):
        if value is not None:
            raise ValueError(
                f"suite {name!r} has the paper's radii: leave `{field}` out, got "
                f"{value!r}."
            )
    return protocols.OF_DATA[name](data)


def chosen(fields: Mapping[str, Any], data: str) -> tuple[list[Entry], list[Pending]]:
    """Returns the attacks of `config.eval`, and those of its suite that are pending.

    Args:
      fields: with `suite`, a protocol's name, or '' (or no such field) for the table in
        `attacks`.
      data: name of the data set.

    Raises:
      ValueError: as `get` and `read`; for a pending attack in `attacks` too.
    """
    name = fields.get("suite", "")
    if not name:
        return read(fields["attacks"]), []
    ready, pending = {}, []
    for label, entry in get(name, data=data).items():
        if reason := attacks.pending_reason(entry["name"]):
            pending.append(Pending(label, entry["name"], reason))
        else:
            ready[label] = entry
    return read(ready), pending


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Says that a name is unknown, with the nearest known one."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}; known: {', '.join(known)}.{hint}"
