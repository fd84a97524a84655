"""results.json: every key, once. What an evaluation writes and its readers rely on.

A key that only later versions write has a default. Optional parts are None where they
were not measured.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from jaxrobust.results.typed import (
    ABSENT,
    Count,
    Counts,
    MaybeNumber,
    MaybeNumbers,
    MaybeRadius,
    MaybeShare,
    Number,
    Numbers,
    Pair,
    Pairs,
    RowsOfShares,
    Share,
    Shares,
    Texts,
    named,
    one_of,
)

VERSION = 1
NORMS = ("linf", "l2", "l1")
Norm = Annotated[str, one_of(NORMS)]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of images with its 95 % interval."""

    accuracy: Share
    ci95: Pair


@dataclass(frozen=True, kw_only=True)
class Clean(Accuracy):
    """Of the n images as they are."""

    n: Count
    loss: MaybeNumber | None = None
    seconds: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Robust:
    """A share of images that stay right under attack."""

    robust_accuracy: Share
    ci95: Pair


@dataclass(frozen=True, kw_only=True)
class WorstCase(Robust):
    """Of n images that stay right whatever the attacks with a radius do."""

    n: Count
    attacks: list[str] | None = None
    seconds: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Threat:
    """An attack as it was told; `rest` are its hyperparameters.

    `attack`, `source` are those of a transfer, `why` of an adaptive attack.
    """

    name: str
    norm: Norm
    eps: MaybeRadius
    eps_text: str | None = None
    version: str | None = None
    steps: Count | None = None
    attack: str | None = None
    source: str | None = None
    why: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)

    @property
    def written(self) -> str:
        """The radius as the config writes it."""
        return str(self.eps if self.eps_text is None else self.eps_text)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one attack of AutoAttack left, and its cost in images."""

    name: str
    robust_accuracy: Share
    seconds: Number
    gradients: Count
    forwards: Count


@dataclass(frozen=True, kw_only=True)
class Within(Robust):
    """What an attack without a radius leaves within one."""

    eps_text: str
    eps: Number | None = None
    n: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Mean size of the perturbations in each norm."""

    linf: Number
    l2: Number
    l1: Number


@dataclass(frozen=True, kw_only=True)
class Attack(Threat):
    """An attack and what it found."""

    label: str
    robust_accuracy: Share
    ci95: Pair
    n: Count
    loss: MaybeNumber | None = None
    mean_perturbation: Sizes | None = None
    seconds: Number | None = None
    slots: Count | None = None
    expected_accuracy: Share | None = None
    replaced: list[str] | None = None
    stages: list[Stage] | None = None
    median_distance: MaybeNumber = ABSENT
    accuracy_within: list[Within] | None = None


@dataclass(frozen=True, kw_only=True)
class OfClass:
    """Accuracies of one class."""

    name: str = named("class")
    n: Count
    accuracy: Share
    robust_accuracy: Share


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A sign that the robust accuracy is not what it seems."""

    name: str
    message: str
    severe: bool = False
    values: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When an evaluation ended that goes on until its intervals are narrow."""

    used: Count
    of: Count
    block: Count
    reason: str
    ci: Number | None = None
    widths: dict[str, Number] | None = None


@dataclass(frozen=True, kw_only=True)
class Pending:
    """An attack of a suite that did not run."""

    label: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Data:
    """The examples: so many of a test set."""

    name: str
    of: Count
    examples: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Randomised:
    """How a network that draws at random was judged."""

    draws: Count
    right_in: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two shares of the same images: how many only one network gets right."""

    difference: Number
    ci95: Pair
    only_a: Count
    only_b: Count
    p_value: Number
    a: Share = ABSENT
    b: Share = ABSENT


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two evaluations, image by image."""

    n: Count
    same_attacks: bool
    clean: Paired | None = None
    worst_case: Paired | None = None
    attacks_a: list[str] | None = None
    attacks_b: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Robust accuracy over the radius."""

    EQUAL: ClassVar = ("eps", "eps_text", "robust_accuracy", "ci95")
    eps: Numbers
    eps_text: Texts
    robust_accuracy: Shares
    ci95: Pairs
    norm: Norm
    n: Count
    steps: Count
    name: str | None = None
    step_size: str | None = None
    random_start: bool | None = None
    seconds: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The perturbation growth ratio of each stage."""

    EQUAL: ClassVar = ("stages", "l1", "l2")
    stages: Texts
    l1: MaybeNumbers
    l2: MaybeNumbers
    n: Count
    images: list[Count] | None = None
    eps: Number | None = None
    eps_text: str | None = None
    norm: Norm | None = None
    steps: Count | None = None
    step_size: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """What was seen of the input gradients."""

    zero_gradient_share: MaybeShare
    loss_rises_share: MaybeShare
    explained: MaybeNumber = 1.0
    explained_at: dict[str, MaybeNumber] | None = None
    rest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LogitsSeen:
    """What was seen of the logits."""

    no_loss_share: MaybeShare
    rest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Calls:
    """By how much logits change when the same images are asked for again."""

    same_batch: MaybeNumber
    other_batch: MaybeNumber
    rest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Numbers behind the signs of masked gradients; see `evaluation.diagnose`."""

    n: Count
    steps: Count
    restarts: Count
    queries: Count
    accuracy: dict[str, MaybeShare]
    gradients: Gradients
    logits: LogitsSeen
    calls: Calls
    rest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Where one attack ends, per radius: shares per rank of those newly turned."""

    EQUAL: ClassVar = ("newly_successful", "share")
    name: str
    newly_successful: Counts
    share: RowsOfShares
    steps: Count | None = None
    robust_accuracy: list[Share] | None = None
    seconds: Number | None = None


@dataclass(frozen=True, kw_only=True)
class ClassRanks:
    """Ranks of the classes that attacks end in."""

    EQUAL: ClassVar = ("eps", "eps_text")
    eps: Numbers
    eps_text: Texts
    ranks: Counts
    attacks: list[Sweep]
    n: Count
    n_correct: Count
    norm: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Mean probability gap of all images, and of those correct before the attack."""

    all: MaybeNumber
    correct: MaybeNumber


@dataclass(frozen=True, kw_only=True)
class GapOf(Gap):
    """That under one attack."""

    label: str


@dataclass(frozen=True, kw_only=True)
class ProbabilityGap:
    """Probability of the true class minus that of the best other one."""

    clean: Gap
    attacks: list[GapOf]
    n: Count
    n_correct: Count


@dataclass(frozen=True, kw_only=True)
class Features:
    """Of the penultimate layer; the arrays are in evaluation.npz."""

    attack: str
    n: Count | None = None
    width: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Distances:
    """To the own centre and the nearest other one."""

    nearest_is_own: Share
    own: MaybeNumber | None = None
    other: MaybeNumber | None = None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Distances of the features of one layer."""

    clean: Distances
    attacked: Distances


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """Distances to class centres."""

    attack: str
    n: Count
    layers: dict[str, Layer]


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Mean squared differences to the clean image."""

    attacked: MaybeNumber
    restored_clean: MaybeNumber
    restored_attacked: MaybeNumber


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """What a decoder makes of the images."""

    attack: str
    n: Count
    mse: Errors


@dataclass(frozen=True, kw_only=True)
class Analyses:
    """What attacks do inside a network."""

    probability_gap: ProbabilityGap | None = None
    class_ranks: ClassRanks | None = None
    features: Features | None = None
    prototypes: Prototypes | None = None
    restoration: Restoration | None = None


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """Accuracy under one corruption at one severity."""

    name: str
    severity: Count
    accuracy: Share
    ci95: Pair | None = None
    n: Count | None = None


@dataclass(frozen=True, kw_only=True)
class OfSome(Accuracy):
    """On the n images that were corrupted."""

    n: Count | None = None


@dataclass(frozen=True, kw_only=True)
class ByName(Accuracy):
    """Mean over severities."""

    name: str


@dataclass(frozen=True, kw_only=True)
class BySeverity:
    """Mean over corruptions."""

    severity: Count
    accuracy: Share
    ci95: Pair | None = None


@dataclass(frozen=True, kw_only=True)
class RobustOfSome(Robust):
    """On the n images that were corrupted, under every attack."""

    n: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Accuracy under common corruptions."""

    clean: OfSome
    n: Count
    note: str
    rows: list[Corrupted]
    by_name: list[ByName]
    by_severity: list[BySeverity]
    mean_accuracy: Share
    ci95: Pair
    worst_case: RobustOfSome | None = None
    seconds: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """All of results.json."""

    clean: Clean
    attacks: list[Attack]
    worst_case: WorstCase
    flags: list[Flag]
    per_class: list[OfClass] | None = None
    stopping: Stopping | None = None
    diagnostics: Diagnostics | None = None
    curve: Curve | None = None
    growth: Growth | None = None
    analyses: Analyses | None = None
    corruptions: Corruptions | None = None
    own_analyses: dict[str, dict[str, Any]] | None = None
    comparison: Comparison | None = None
    suite: str | None = None
    pending: list[Pending] | None = None
    randomised: Randomised | None = None
    black_box: bool | None = None
    data: Data | None = None
    environment: dict[str, Any] | None = None
    schema: Count = VERSION


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a comparison reads of it."""

    data: Data
    attacks: list[Threat]
