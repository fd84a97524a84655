"""Which attacks AutoAttack runs, with the published settings, and what they cost."""

import dataclasses
import functools
from typing import NamedTuple

from jaxrobust._checks import NORMS, check_norm, nearest_match
from jaxrobust.array_types import Norm
from jaxrobust.attacks import stepping

VERSIONS = ("standard", "plus", "rand")
STEPS, QUERIES, TARGETS = 100, 5000, 9
TARGETS_L1 = 5  # of APGD; FAB has nine in L1 too
EOT_SAMPLES = 20


class Calls(NamedTuple):
    """Model calls in images: input gradients, and forward passes beside them."""

    gradients: int = 0
    forwards: int = 0

    def plus(self, other: "Calls", times: int) -> "Calls":
        """Adds `other` so many times."""
        pairs = zip(self, other, strict=True)
        return Calls(*(mine + times * theirs for mine, theirs in pairs))


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack of the ensemble, by the name AutoAttack has for it.

    The runs of its method are restarts or targets; `per_step` are the model calls of
    one step of one image.
    """

    name: str
    method: stepping.Method
    loss: str
    per_step: Calls

    @property
    def first_looks(self) -> int:
        """As how many steps its start counts: Square looks at its first point."""
        return int(isinstance(self.method, stepping.Square))

    @property
    def most(self) -> Calls:
        """The model calls of an image that no run fools."""
        steps = self.method.points + self.first_looks
        return Calls().plus(self.per_step, self.method.runs() * steps)


class Ensemble(NamedTuple):
    """The stages, and what is not as published, in words."""

    stages: tuple[Stage, ...]
    replaced: tuple[str, ...]


def plan(
    version: str, norm: Norm, classes: int, *, stochastic: bool = False
) -> Ensemble:
    """Returns the stages of a version for a model of so many classes.

    Calls of a randomised (`stochastic`) model count `EOT_SAMPLES` times in `rand`.

    Raises:
      ValueError: for another version or norm, or fewer than two classes.

    Reference:
      Croce and Hein, ICML 2020, arXiv 2003.01690, section 5, and the settings of its
      code; L1: ICML 2021, arXiv 2103.01208, section 5.
    """
    check_norm(norm, NORMS)
    if version not in VERSIONS:
        hint = nearest_match(version, VERSIONS)
        raise ValueError(f"Unknown `version` {version!r} of AutoAttack. {hint}")
    if classes < 2:
        raise ValueError(
            f"the model's logits have {classes} class: AutoAttack needs at least 2 "
            "(for one logit z, return the two logits 0 and z)."
        )
    samples = eot_samples(version, stochastic)
    l1_standard = norm == "l1" and version == "standard"
    targeted = TARGETS_L1 if l1_standard else TARGETS
    restarts = {"plus": 5, "rand": 1}.get(version, 5 if l1_standard else 1)
    apgd = functools.partial(_apgd, classes, samples)
    fab = functools.partial(_fab, classes, samples)
    square = stepping.Square(QUERIES)
    known = {
        "apgd-ce": apgd("apgd-ce", restarts, large_radius=l1_standard),
        "apgd-dlr": apgd("apgd-dlr", restarts),
        "apgd-t": apgd("apgd-t", 1, targets=targeted, large_radius=l1_standard),
        "fab": fab("fab", 5, None),
        "fab-t": fab("fab-t", 1, TARGETS),
        "square": Stage("square", square, "margin", Calls(0, samples)),
    }
    names = {
        "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
        "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
        "rand": ("apgd-ce", "apgd-dlr"),
    }[version]
    stages = tuple(known[name] for name in names)
    return Ensemble(stages, tuple(_replaced(stages, classes, targeted)))


def eot_samples(version: str, stochastic: bool) -> int:
    """Draws of the model's randomness per gradient."""
    return EOT_SAMPLES if version == "rand" and stochastic else 1


def _apgd(
    classes: int,
    samples: int,
    name: str,
    restarts: int,
    *,
    targets: int = 0,
    large_radius: bool = False,
) -> Stage:
    method = stepping.Apgd(
        STEPS + (2 if large_radius else 0),
        restarts,
        random_start=True,
        targets=targets,
        large_radius=large_radius,
    ).for_classes(classes)
    loss = "dlr" if name == "apgd-dlr" else "ce"
    return Stage(name, method, loss, Calls(samples, 0))


def _fab(
    classes: int, samples: int, name: str, restarts: int, targets: int | None
) -> Stage:
    method = stepping.FAB(STEPS, restarts, targets=targets).for_classes(classes)
    gradients = classes if targets is None else 1
    return Stage(name, method, "ce", Calls(gradients * samples, samples))


def _replaced(stages: tuple[Stage, ...], classes: int, targeted: int) -> list[str]:
    """Says what a small number of classes has changed."""
    names, said = {stage.name for stage in stages}, []
    for name, usual in (("apgd-t", targeted), ("fab-t", TARGETS)):
        if name in names and classes - 1 < usual:
            said.append(
                f"{name} has {classes - 1} target{'s' * (classes > 2)} instead of "
                f"{usual}: there are {classes} classes"
            )
    if "apgd-t" in names and classes < 4:
        said.append(
            "apgd-t ascends the difference of two logits, since the targeted DLR loss "
            f"needs 4 classes and there are {classes}"
        )
    if "apgd-dlr" in names and classes < 3:
        said.append(
            "apgd-dlr ascends the margin, since the DLR loss needs 3 classes and there "
            f"are {classes}"
        )
    return said
