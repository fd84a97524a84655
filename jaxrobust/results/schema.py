"""results.json: every key, once. What an evaluation writes and its readers rely on.

A key that only later versions write has a default. Optional parts are None where they
were not measured.
"""

from dataclasses import field
from typing import Annotated, Any, ClassVar

from jaxrobust.results.typed import (
    ABSENT,
    Count,
    Counts,
    MaybeNumber,
    MaybeNumbers,
    MaybeRadius,
    MaybeShare,
    Measured,
    Number,
    Numbers,
    Pair,
    Pairs,
    Part,
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


class Accuracy(Part):
    """A share of images with its 95 % interval."""

    accuracy: Share
    ci95: Pair


class Clean(Accuracy):
    """Of the n images as they are."""

    n: Count
    loss: MaybeNumber | None = None
    seconds: Number | None = None


class Robust(Part):
    """A share of images that stay right under attack."""

    robust_accuracy: Share
    ci95: Pair


class WorstCase(Robust):
    """Of n images that stay right whatever the attacks with a radius do."""

    n: Count
    attacks: list[str] | None = None
    seconds: Number | None = None


class Threat(Part):
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


class Stage(Part):
    """What one attack of AutoAttack left, and its cost in images."""

    name: str
    robust_accuracy: Share
    seconds: Number
    gradients: Count
    forwards: Count


class Within(Robust):
    """What an attack without a radius leaves within one."""

    eps_text: str
    eps: Number | None = None
    n: Count | None = None


class Sizes(Part):
    """Mean size of the perturbations in each norm."""

    linf: Number
    l2: Number
    l1: Number


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


class OfClass(Part):
    """Accuracies of one class."""

    name: str = named("class")
    n: Count
    accuracy: Share
    robust_accuracy: Share


class Flag(Part):
    """A sign that the robust accuracy is not what it seems."""

    name: str
    message: str
    severe: bool = False
    values: dict[str, Any] | None = None


class Stopping(Part):
    """When an evaluation ended that goes on until its intervals are narrow."""

    used: Count
    of: Count
    block: Count
    reason: str
    ci: Number | None = None
    widths: dict[str, Number] | None = None


class Pending(Part):
    """An attack of a suite that did not run."""

    label: str
    name: str
    reason: str


class Data(Part):
    """The examples: so many of a test set."""

    name: str
    of: Count
    examples: Count | None = None


class Randomised(Part):
    """How a network that draws at random was judged."""

    draws: Count
    right_in: Share | None = None


class Paired(Part):
    """Two shares of the same images: how many only one network gets right."""

    difference: Number
    ci95: Pair
    only_a: Count
    only_b: Count
    p_value: Number
    a: Share = ABSENT
    b: Share = ABSENT


class Comparison(Part):
    """Two evaluations, image by image."""

    n: Count
    same_attacks: bool
    clean: Paired | None = None
    worst_case: Paired | None = None
    attacks_a: list[str] | None = None
    attacks_b: list[str] | None = None


class Curve(Part):
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


class Growth(Part):
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


class Predictions(Part):
    """Of clean images; `chance` is reached by always answering the commonest label."""

    accuracy: Share
    chance: Share
    constant: bool  # all images get the same class


class GradientCheck(Part):
    """Gradients beside finite differences; shares are of images.

    `explained` is the least of `explained_at`, by point and distance: how much of the
    change of the logits the gradient tells. `changed_share` are those whose prediction
    a tiny step changes.
    """

    explained: MaybeNumber = 1.0
    explained_at: dict[str, MaybeNumber] | None = None
    explained_near: MaybeNumber = ABSENT
    misled_share: MaybeShare = ABSENT
    loss_rises_share: MaybeShare
    loss_rises_n: Count | None = None
    zero_slope_share: Measured = ABSENT
    changed_share: MaybeShare = ABSENT


class Gradients(GradientCheck):
    """What was seen of the input gradients."""

    zero_gradient_share: MaybeShare
    non_finite_gradient_share: Measured = ABSENT
    median_length: Measured = ABSENT


class LogitsSeen(Part):
    """What was seen of the logits; shares of images whose softmax or loss rounds."""

    probabilities: bool | None = None
    certain_share: Measured = ABSENT
    no_loss_share: MaybeShare
    at_ceiling_share: Measured = ABSENT
    largest: Measured = ABSENT
    rescaled_by: Measured = ABSENT


class Calls(Part):
    """By how much logits change when the same images are asked for again."""

    same_batch: MaybeNumber
    other_batch: MaybeNumber
    other_size: MaybeNumber = ABSENT
    traced_again: MaybeNumber = ABSENT


class Trials(Part):
    """Accuracy that attacks leave, and shares that only weaker ones or noise fool.

    `raised` is by how much a step or the longest attack raises it, negative if not;
    `zero_gradient_share_attacked` how often the gradient was 0 on the way.
    """

    accuracy: dict[str, MaybeShare]
    only_single_step_share: Measured = ABSENT
    only_rescaled_share: Measured = ABSENT
    only_black_box_share: Measured = ABSENT
    zero_gradient_share_attacked: Measured = ABSENT
    raised: Measured = ABSENT
    covering_eps: Measured = ABSENT


class Diagnostics(Trials):
    """Numbers behind the signs of masked gradients; see `evaluation.diagnose`."""

    n: Count
    norm: Norm | None = None
    eps: Number | None = None
    step_size: Number | None = None
    steps: Count
    restarts: Count
    queries: Count
    predictions: Predictions | None = None
    logits: LogitsSeen
    calls: Calls
    gradients: Gradients
    seconds: Number | None = None


class Sweep(Part):
    """Where one attack ends, per radius: shares per rank of those newly turned."""

    EQUAL: ClassVar = ("newly_successful", "share")
    name: str
    newly_successful: Counts
    share: RowsOfShares
    steps: Count | None = None
    robust_accuracy: list[Share] | None = None
    seconds: Number | None = None


class ClassRanks(Part):
    """Ranks of the classes that attacks end in."""

    EQUAL: ClassVar = ("eps", "eps_text")
    eps: Numbers
    eps_text: Texts
    ranks: Counts
    attacks: list[Sweep]
    n: Count
    n_correct: Count
    norm: Norm | None = None


class Gap(Part):
    """Mean probability gap of all images, and of those correct before the attack."""

    all: MaybeNumber
    correct: MaybeNumber


class GapOf(Gap):
    """That under one attack."""

    label: str


class ProbabilityGap(Part):
    """Probability of the true class minus that of the best other one."""

    clean: Gap
    attacks: list[GapOf]
    n: Count
    n_correct: Count


class Features(Part):
    """Of the penultimate layer; the arrays are in evaluation.npz."""

    attack: str
    n: Count | None = None
    width: Count | None = None


class Distances(Part):
    """To the own centre and the nearest other one."""

    nearest_is_own: Share
    own: MaybeNumber | None = None
    other: MaybeNumber | None = None


class Layer(Part):
    """Distances of the features of one layer."""

    clean: Distances
    attacked: Distances


class Prototypes(Part):
    """Distances to class centres."""

    attack: str
    n: Count
    layers: dict[str, Layer]


class Errors(Part):
    """Mean squared differences to the clean image."""

    attacked: MaybeNumber
    restored_clean: MaybeNumber
    restored_attacked: MaybeNumber


class Restoration(Part):
    """What a decoder makes of the images."""

    attack: str
    n: Count
    mse: Errors


class Analyses(Part):
    """What attacks do inside a network."""

    probability_gap: ProbabilityGap | None = None
    class_ranks: ClassRanks | None = None
    features: Features | None = None
    prototypes: Prototypes | None = None
    restoration: Restoration | None = None


class Corrupted(Part):
    """Accuracy under one corruption at one severity."""

    name: str
    severity: Count
    accuracy: Share
    ci95: Pair | None = None
    n: Count | None = None


class OfSome(Accuracy):
    """On the n images that were corrupted."""

    n: Count | None = None


class ByName(Accuracy):
    """Mean over severities."""

    name: str


class BySeverity(Part):
    """Mean over corruptions."""

    severity: Count
    accuracy: Share
    ci95: Pair | None = None


class RobustOfSome(Robust):
    """On the n images that were corrupted, under every attack."""

    n: Count | None = None


class Corruptions(Part):
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


class Results(Part):
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


class Compared(Part):
    """What a comparison reads of it."""

    data: Data
    attacks: list[Threat]
