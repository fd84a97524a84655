"""What an analysis has, is given and returns."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
from jaxtyping import Array

from jaxrobust import models
from jaxrobust.array_types import Images, Variables
from jaxrobust.evaluation import step
from jaxrobust.evaluation.entries import Entry
from jaxrobust.evaluation.flags import RaisedFlag
from jaxrobust.evaluation.setting import Setting
from jaxrobust.results.schema import AttackSummary

Fields = Mapping[str, Any]
Runs = Mapping[str, step.EvalRun]
_NONE: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Context:
    """What an analysis works with: the network, its N examples, the attacks that ran.

    `attacks` are what results.json says of `entries`; `fields` are the analysis's part
    of the config, `data` is the data set's name; the report shows so many images.
    """

    setting: Setting
    entries: Sequence[Entry]
    attacks: Sequence[AttackSummary]
    fields: Fields
    data: str
    shown: int


class Found(NamedTuple):
    """What an analysis found; nothing where it is off or does not fit the network.

    `results` are parts of `schema.Results` by name, `arrays` are of evaluation.npz; of
    an analysis from outside both stand under its label. `of_attacks` is, by an attack's
    label, what its row of results.json gets.
    """

    results: Mapping[str, Any] = _NONE
    arrays: Mapping[str, Any] = _NONE
    flags: Sequence[RaisedFlag] = ()
    of_attacks: Mapping[str, Mapping[str, Any]] = _NONE


class Analysis(Protocol):
    """A module of this package, or anyone's module or object."""

    def check(self, fields: Fields, /) -> None:
        """Raises ValueError for what the config says wrongly; computes nothing."""

    def run(self, context: Context, runs: Runs, /) -> Found:
        """Looks at a network after its attacks, whose `runs` are by label."""
        ...


class BuiltIn(Analysis, Protocol):
    """An analysis of this package: its part of `config.eval`, and what stands there.

    An `enabled` among the fields turns it off. Beside these a file may say
      RULES: what its fields may hold, by name
      UNSAID: fields that count where a config, an older one, does not have them
      ATTACKS: True where it attacks the network again, beside the suite
      DIFFERENTIATES: True where it is of a network with gradients that draws nothing
      QUICK, ON_CPU: fields of a run that only shows that it works, and of a short one
      at_radius: (eps, step_size) -> the fields that change with one radius for all
      check_attacks: (fields, entries), raises where the attacks do not fit
      check_images: (fields, shape [H, W, C]), raises for images that it cannot take
      check_data: (fields, test set), raises where data of its own does not fit that
    """

    @property
    def FIELD(self) -> str: ...  # noqa: D102

    @property
    def DEFAULTS(self) -> Mapping[str, Any]: ...  # noqa: D102


def apply(model: nn.Module, variables: Variables, x: Images) -> models.Outputs:
    """Runs a network that gives more than logits."""
    out = model.apply(variables, x, train=False)
    assert isinstance(out, models.Outputs)
    return out


def outputs_of(setting: Setting) -> models.Outputs | None:
    """Returns the shapes of what the network returns; None for bare logits."""

    def apply(variables: Variables, images: Array) -> Any:
        return setting.model.apply(variables, step.to_float(images), train=False)

    image = setting.dataset.images[setting.indices[:1]]
    out = jax.eval_shape(apply, setting.variables, image)
    return out if isinstance(out, models.Outputs) else None
