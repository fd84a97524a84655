"""Which attacks AutoAttack runs, with the published settings, and what they cost."""

import dataclasses
import functools
from typing import NamedTuple

from jaxrobust._checks import NORMS, check_norm, nearest_match
from jaxrobust.array_types import Norm
from jaxrobust.attacks import _costs as costs
from jaxrobust.attacks import stepping

VERSIONS = ("standard", "plus", "rand", "strong")
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


_NONE = Calls()


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attack of the ensemble, by the name AutoAttack has for it.

    The runs of its method are restarts or targets; `per_step` are the model calls of
    one step of one image, `at_start` those of the start of a run.
    """

    name: str
    method: stepping.Method
    loss: str
    per_step: Calls
    at_start: Calls = _NONE

    @property
    def most(self) -> Calls:
        """The model calls of an image that no run fools."""
        once = self.at_start.plus(self.per_step, self.method.points)
        return Calls().plus(once, self.method.runs())


class Ensemble(NamedTuple):
    """The stages, and what is not as published, in words."""

    stages: tuple[Stage, ...]
    replaced: tuple[str, ...]


def plan(
    version: str, norm: Norm, classes: int, *, stochastic: bool = False
) -> Ensemble:
    """Returns the stages of a version for a model of so many classes.

    `strong` is ours: what stands after `standard` is attacked on, by targeted APGD
    whose targets are the classes of the nearest linearised boundaries (MALT), and by
    five starts of APGD on the margin and on the DLR loss each. Calls of a randomised
    (`stochastic`) model count `EOT_SAMPLES` times in `rand`.

    Raises:
      ValueError: for another version or norm, or fewer than two classes.

    Reference:
      Croce and Hein, ICML 2020, arXiv 2003.01690, section 5, and the settings of its
      code; L1: ICML 2021, arXiv 2103.01208, section 5. MALT: Melamed et al., NeurIPS
      2024, arXiv 2407.02240.
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
    l1_standard = norm == "l1" and version in ("standard", "strong")
    targeted = TARGETS_L1 if l1_standard else TARGETS
    restarts = {"plus": 5, "rand": 1}.get(version, 5 if l1_standard else 1)
    more = 1 if version == "rand" else 5
    apgd = functools.partial(_apgd, classes, samples)
    fab = functools.partial(_fab, classes, samples)
    square = stepping.Square(QUERIES)
    known = {
        "apgd-ce": apgd("apgd-ce", restarts, large_radius=l1_standard),
        "apgd-dlr": apgd("apgd-dlr", more),
        "apgd-margin": apgd("apgd-margin", more),
        "apgd-t": apgd("apgd-t", 1, targets=targeted, large_radius=l1_standard),
        "apgd-malt": apgd("apgd-malt", 1, targets=TARGETS, order="boundaries"),
        "fab": fab("fab", 5, None),
        "fab-t": fab("fab-t", 1, TARGETS),
        "square": Stage("square", square, "margin", *[Calls(0, samples)] * 2),
    }
    published = ("apgd-ce", "apgd-t", "fab-t", "square")
    names = {
        "standard": published,
        "strong": (*published, "apgd-malt", "apgd-margin", "apgd-dlr"),
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
    order: str = "logits",
    large_radius: bool = False,
) -> Stage:
    method = stepping.Apgd(
        STEPS + (2 if large_radius else 0),
        restarts,
        random_start=True,
        targets=targets,
        order=order,
        large_radius=large_radius,
    ).for_classes(classes)
    loss = {"apgd-dlr": "dlr", "apgd-margin": "margin"}.get(name, "ce")
    aims = costs.aims_at(classes) if order == "boundaries" else 0
    return Stage(name, method, loss, Calls(samples, 0), Calls(samples * aims, 0))


def _fab(
    classes: int, samples: int, name: str, restarts: int, targets: int | None
) -> Stage:
    method = stepping.FAB(STEPS, restarts, targets=targets).for_classes(classes)
    gradients = classes if targets is None else 1
    return Stage(name, method, "ce", Calls(gradients * samples, samples))


def _replaced(stages: tuple[Stage, ...], classes: int, targeted: int) -> list[str]:
    """Says what a small number of classes has changed."""
    names, said = {stage.name for stage in stages}, []
    usuals = {"apgd-t": targeted, "fab-t": TARGETS, "apgd-malt": TARGETS}
    for name, usual in usuals.items():
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
