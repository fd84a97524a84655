"""Attack suites: what a config says, read into attacks."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from jaxrobust import attacks
from jaxrobust.array_types import Bounds, Norm
from jaxrobust.evaluation import step, verify

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
    if "step_size" in fields:
        fields["step_size"] = parse_radius(fields["step_size"], "step_size")
    radius = parse_radius(eps, "eps")
    if "bounds" in fields:  # a list after a config went through JSON
        fields["bounds"] = tuple(fields["bounds"])
    return Entry(label, name, norm, radius, str(eps), fields)


def _gradient_attacks(eps: str, step_size: str, norm: str) -> dict[str, dict[str, Any]]:
    common = {"norm": norm, "eps": eps}
    pgd = {"name": "pgd", "step_size": step_size, "steps": 20, "random_start": True}
    return {
        "fgsm": {"name": "fgsm", **common},
        "pgd20": {**pgd, **common},
        "ball": {"name": "uniform_noise", "draws": 10, **common},
    }


def _ssp2020(eps: str, step_size: str, norm: str) -> dict[str, dict[str, Any]]:
    table = _gradient_attacks(eps, step_size, norm)
    table["pgd20"]["random_start"] = False
    return table


SUITES: Mapping[str, Callable[[str, str, str], dict[str, dict[str, Any]]]] = {
    "gradient": _gradient_attacks,
    "ssp2020": _ssp2020,
}


def get(
    name: str, *, eps: str, step_size: str, norm: str = "linf"
) -> dict[str, dict[str, Any]]:
    """Returns a named suite as a config writes it.

    Args:
      name: `gradient` (FGSM, PGD-20 with a random start, uniform noise) or `ssp2020`
        (the same without the random start: Kim et al. 2020, arXiv 2010.10047).
      eps: radius.
      step_size: of the iterative attacks.
      norm: of the ball.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in SUITES:
        raise ValueError(unknown("suite", name, SUITES))
    return SUITES[name](eps, step_size, norm)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Says that a name is unknown, with the nearest known one."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}; known: {', '.join(known)}.{hint}"
