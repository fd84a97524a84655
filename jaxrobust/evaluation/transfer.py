"""Transfer attacks: adversarial images made on one network and shown to another."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array

from jaxrobust import attacks, models
from jaxrobust.array_types import Variables
from jaxrobust.data import Dataset
from jaxrobust.evaluation import step
from jaxrobust.evaluation.entries import Entry, Pass
from jaxrobust.evaluation.setting import Setting
from jaxrobust.named_models import count_classes
from jaxrobust.results.schema import sources_of

NAME = "transfer"  # of such attacks in configs
OPTIONS = {"attack": str, "source": str, "mean": str}
MEANS = ("logits", "probabilities")
NO_SOURCE = "transfer needs eval.transfer_from: the work directory of another network"
Trained = tuple[nn.Module, Variables]


@dataclasses.dataclass(frozen=True)
class Transfer(Entry):
    """An attack on a source network whose images the target classifies.

    `name` and the hyperparameters are those of the attack on the source, a work
    directory or checkpoint that `connect` loads as one of `networks`. Several in
    brackets, `[runs/a, runs/b]`, are attacked together, as their `mean`.
    """

    in_step: ClassVar[bool] = False

    source: str = ""
    mean: str = MEANS[0]
    networks: tuple[Trained, ...] = dataclasses.field(
        default=(), repr=False, compare=False
    )

    def prepare(self, setting: Setting) -> Pass:
        """Returns a pass with both networks in one compiled step, after `connect`."""
        if not self.networks:
            raise ValueError(f"the source {self.source!r} is not loaded: `connect` it.")
        (sources, variables), attack = zip(*self.networks, strict=True), self.build()

        def body(pair, x, labels, keys) -> dict[str, Array]:
            each = zip(sources, pair["source"], strict=True)
            made_on = [models.logits_fn(source, own) for source, own in each]
            mean: Any = self.mean
            one = made_on[0] if len(made_on) == 1 else attacks.ensemble(made_on, mean)
            x_adv = attack(one, x, labels, keys)
            logits = models.logits_fn(setting.model, pair["target"])(x_adv)
            return {"logits": step.float_logits(logits), "x_adv": x_adv}

        run = self.passes(step.jitted(body, setting.precision))

        def both(part: Setting, keep: Any) -> step.EvalRun:
            pair = {"source": variables, "target": part.variables}
            return run(dataclasses.replace(part, variables=pair), keep)

        return both

    def describe(self) -> dict[str, Any]:
        """Returns what results.json says about the attack itself."""
        own = {"name": NAME, "attack": self.name, "source": self.source}
        several = {"mean": self.mean} if len(sources_of(self.source)) > 1 else {}
        return super().describe() | own | several


def connect(
    entries: Sequence[Entry],
    classes: int,
    dataset: Dataset,
    name: str,
    own: str | None = None,
) -> list[Entry]:
    """Loads the sources of the transfer attacks among `entries`, each once.

    They must take the images of the data set `name` and have as many `classes`. A
    source may be a network of the target's `model.name` (`own`) even where that is code
    from outside jaxrobust.
    """
    loaded: dict[str, Trained] = {}
    connected = []
    for entry in entries:
        if isinstance(entry, Transfer):
            for source in sources_of(entry.source):
                if source not in loaded:
                    loaded[source] = _load(entry, source, classes, dataset, name, own)
            found = tuple(loaded[source] for source in sources_of(entry.source))
            entry = dataclasses.replace(entry, networks=found)
        connected.append(entry)
    return connected


def _load(
    entry: Transfer,
    source: str,
    classes: int,
    dataset: Dataset,
    name: str,
    own: str | None,
) -> Trained:
    from jaxrobust import checkpoints  # brings orbax, which no other attack needs

    about = f"attack {entry.label!r} transfers from {source!r}, but"
    try:
        model, variables, _ = checkpoints.load(source, model_name=own)
        found = count_classes(models.logits_fn(model, variables), dataset.shape, name)
    except (ValueError, OSError) as error:
        raise ValueError(f"{about} {error}") from None
    if found != classes:
        raise ValueError(
            f"{about} that network has {found} classes, the attacked one {classes}."
        )
    return model, variables
