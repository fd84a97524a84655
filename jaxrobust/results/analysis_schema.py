"""What each analysis leaves in results.json, and the parts that all of it is made of.

A key that only later versions write has a default. Optional parts are None where they
were not measured.
"""

from typing import Annotated, ClassVar, get_args

from jaxrobust import array_types
from jaxrobust.results.typed import (
    ABSENT,
    Count,
    Few,
    Measured,
    Number,
    Pair,
    Part,
    Share,
    one_of,
)

Norm = Annotated[array_types.Norm, one_of(get_args(array_types.Norm))]


class OfSome(Part):
    """A share of n images with its 95 % interval."""

    accuracy: Share
    ci95: Pair
    n: Count | None = None


class RobustOfSome(Part):
    """A share of n images that stay right under attack."""

    robust_accuracy: Share
    ci95: Pair
    n: Count | None = None


class Curve(Part):
    """Robust accuracy over the radius."""

    EQUAL: ClassVar = ("eps", "eps_text", "robust_accuracy", "ci95")
    eps: Few[Number]
    eps_text: Few[str]
    robust_accuracy: Few[Share]
    ci95: Few[Pair]
    norm: Norm
    n: Count
    steps: Count
    name: str | None = None
    step_size: str | None = None
    random_start: bool | None = None
    seconds: Number | None = None


class QueryCurve(Part):
    """Robust accuracy over the queries of a black-box attack, smallest first.

    `median` are those by which half of the n images that fell had fallen.
    """

    EQUAL: ClassVar = ("queries", "robust_accuracy", "ci95")
    label: str
    queries: Few[Count]
    robust_accuracy: Few[Share]
    ci95: Few[Pair]
    n: Count
    median: Count | None = None
    seconds: Number | None = None


class GrowthSummary(Part):
    """The perturbation growth ratio of each stage."""

    EQUAL: ClassVar = ("stages", "l1", "l2")
    stages: Few[str]
    l1: Few[Number | None]
    l2: Few[Number | None]
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


class ExplainedAt(Part):
    """How much of the change of the logits the gradient tells, by point and distance.

    At the clean image, a random point of the ball and where a short attack leads; null
    where rounding hides the change.
    """

    clean_near: Number | None = ABSENT
    clean_far: Number | None = ABSENT
    in_ball_near: Number | None = ABSENT
    in_ball_far: Number | None = ABSENT
    attacked_near: Number | None = ABSENT
    attacked_far: Number | None = ABSENT


class GradientCheck(Part):
    """Gradients beside finite differences; shares are of images.

    `explained` is the least of `explained_at`; `changed_share` are those whose
    prediction a tiny step changes.
    """

    explained: Number | None = 1.0
    explained_at: ExplainedAt | None = None
    explained_near: Number | None = ABSENT
    misled_share: Share | None = ABSENT
    loss_rises_share: Share | None
    loss_rises_n: Count | None = None
    zero_slope_share: Measured = ABSENT
    changed_share: Share | None = ABSENT


class Gradients(GradientCheck):
    """What was seen of the input gradients."""

    zero_gradient_share: Share | None
    non_finite_gradient_share: Measured = ABSENT
    median_length: Measured = ABSENT


class LogitsSeen(Part):
    """What was seen of the logits; shares of images whose softmax or loss rounds."""

    probabilities: bool | None = None
    certain_share: Measured = ABSENT
    no_loss_share: Share | None
    at_ceiling_share: Measured = ABSENT
    largest: Measured = ABSENT
    rescaled_by: Measured = ABSENT


class Repeatability(Part):
    """By how much logits change when the same images are asked for again."""

    same_batch: Number | None
    other_batch: Number | None
    other_size: Number | None = ABSENT
    traced_again: Number | None = ABSENT


class Left(Part):
    """Accuracy that each of the attacks of `evaluation.trial_attacks` leaves."""

    clean: Share | None = None
    single_step: Share | None = None
    iterative: Share | None = None
    more_steps: Share | None = None
    more_restarts: Share | None = None
    rescaled: Share | None = None
    noise: Share | None = None
    square: Share | None = None
    covering: Share | None = None


class Trials(Part):
    """Accuracy that attacks leave, and shares that only weaker ones or noise fool.

    `raised` is by how much a step or the longest attack raises it, negative if not;
    `zero_gradient_share_attacked` how often the gradient was 0 on the way.
    """

    accuracy: Left
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
    calls: Repeatability
    gradients: Gradients
    gradient_inside: bool | None = None
    loop_inside: bool | None = None
    seconds: Number | None = None


class Sweep(Part):
    """Where one attack ends, per radius: shares per rank of those newly turned."""

    EQUAL: ClassVar = ("newly_successful", "share")
    name: str
    newly_successful: Few[Count]
    share: Few[Few[Share | None]]
    steps: Count | None = None
    robust_accuracy: list[Share] | None = None
    seconds: Number | None = None


class ClassRanks(Part):
    """Ranks of the classes that attacks end in."""

    EQUAL: ClassVar = ("eps", "eps_text")
    eps: Few[Number]
    eps_text: Few[str]
    ranks: Few[Count]
    attacks: list[Sweep]
    n: Count
    n_correct: Count
    norm: Norm | None = None


class Gap(Part):
    """Mean probability gap of all images, and of those correct before the attack."""

    all: Number | None
    correct: Number | None


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
    own: Number | None = None
    other: Number | None = None


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

    attacked: Number | None
    restored_clean: Number | None
    restored_attacked: Number | None


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


class LossSurface(Part):
    """What the plane of a loss surface is made of; the losses are in evaluation.npz."""

    attack: str
    norm: Norm
    eps: Number
    eps_text: str
    n: Count


class Universal(Part):
    """One Linf perturbation, and one patch of `side` pixels, for n images.

    They are made on as many others, and themselves in evaluation.npz.
    """

    n: Count
    eps_text: str
    side: Count
    clean: OfSome
    perturbed: RobustOfSome
    patched: RobustOfSome | None = None


class Certified(Part):
    """The share of n images that are proved to be robust in a ball.

    `unbroken` is the share that the attacks of the same ball leave right, null without
    such attacks; `contradicted` counts images that are proved and broken, which cannot
    be. Of a network without rules of bounds `unsupported` says why, and nothing else
    is there.
    """

    eps: Number
    eps_text: str
    norm: Norm
    method: str
    n: Count
    proved: Share | None = None
    ci95: Pair | None = None
    unbroken: Share | None = None
    contradicted: Count = 0
    seconds: Number | None = None
    unsupported: str | None = None


class SmoothedAccuracy(Part):
    """Certified accuracy of the smoothed network over the L2 radius."""

    EQUAL: ClassVar = ("radii", "certified_accuracy")
    sigma: Number
    draws: Count
    alpha: Share
    abstained: Share
    radii: Few[Number]
    certified_accuracy: Few[Share]
    n: Count
    seconds: Number | None = None


class Corrupted(Part):
    """Accuracy under one corruption at one severity."""

    name: str
    severity: Count
    accuracy: Share
    ci95: Pair | None = None
    n: Count | None = None


class ByName(OfSome):
    """Mean over severities; `ce` is its error over that of a reference network."""

    name: str
    ce: Number | None = None


class BySeverity(Part):
    """Mean over corruptions."""

    severity: Count
    accuracy: Share
    ci95: Pair | None = None


class Corruptions(Part):
    """Accuracy under common corruptions; `worst_case` is of the attacks."""

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


class CorruptionSet(Corruptions):
    """Accuracy on a published set, on n of its `of` images at each severity.

    `clean` and `worst_case` are of the evaluation's own images. The means are of the
    corruptions in `by_name`; `missing` are others of the `benchmark`, `left_out` those
    of the folder that are none of it. `mce` is there where none is missing and there is
    a `reference`.
    """

    folder: str
    of: Count
    benchmark: str | None = None
    missing: list[str]
    left_out: list[str]
    reference: str | None = None
    mce: Number | None = None
