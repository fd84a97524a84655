"""results.json: every key, once. What an evaluation writes and its readers rely on.

What an analysis leaves is in `analysis_schema.py`.
"""

from dataclasses import field
from typing import Any

from jaxrobust.results.analysis_schema import (
    Analyses,
    Certified,
    Corruptions,
    CorruptionSet,
    Curve,
    Diagnostics,
    GrowthSummary,
    LossSurface,
    Norm,
    QueryCurve,
    SmoothedAccuracy,
    Universal,
)
from jaxrobust.results.typed import (
    ABSENT,
    Count,
    Number,
    Pair,
    Part,
    Radius,
    Share,
    named,
)

VERSION = 1


class Clean(Part):
    """Of the n images as they are."""

    accuracy: Share
    ci95: Pair
    n: Count
    loss: Number | None = None
    seconds: Number | None = None


class WorstCase(Part):
    """Of n images that stay right whatever the attacks with a radius do."""

    robust_accuracy: Share
    ci95: Pair
    n: Count
    attacks: list[str] | None = None
    seconds: Number | None = None


class OtherThreat(WorstCase):
    """The same, under the attacks of one threat that is no ball of a norm."""

    threat: str

    @property
    def label(self) -> str:
        """What to call it, `worst case, spatial`."""
        return f"worst case, {self.threat}"


def sources_of(text: str) -> tuple[str, ...]:
    """Reads the source of a transfer: one, or several as `[one, two]`."""
    text = str(text)
    if not (text.startswith("[") and text.endswith("]")):
        return (text,)
    return tuple(part.strip() for part in text[1:-1].split(",") if part.strip())


class Asked(Part):
    """An attack as it was told; `rest` are its hyperparameters.

    `attack`, `source` are those of a transfer, `why` of an adaptive attack; `threat`
    is that of an attack whose threat is no ball, which has no radius;
    `attack_loss` is what an attack calls `loss`, where that is its result's.
    """

    name: str
    norm: Norm
    eps: Radius | None
    eps_text: str | None = None
    version: str | None = None
    steps: Count | None = None
    attack: str | None = None
    source: str | None = None
    why: str | None = None
    threat: str | None = None
    attack_loss: Any = None
    rest: dict[str, Any] = field(default_factory=dict)

    @property
    def written(self) -> str:
        """The radius as the config writes it."""
        return str(self.eps if self.eps_text is None else self.eps_text)


class StageSummary(Part):
    """What one attack of AutoAttack left, and its cost in images."""

    name: str
    robust_accuracy: Share
    seconds: Number
    gradients: Count
    forwards: Count


class Within(Part):
    """What an attack without a radius leaves within one."""

    robust_accuracy: Share
    ci95: Pair
    eps_text: str
    eps: Number | None = None
    n: Count | None = None


class Sizes(Part):
    """Mean size of the perturbations in each norm; in L0 of what changes."""

    linf: Number
    l2: Number
    l1: Number
    l0: Number | None = None
    l0_pixels: Number | None = None


class AttackSummary(Asked):
    """An attack and what it found."""

    label: str
    robust_accuracy: Share
    ci95: Pair
    n: Count
    loss: Number | None = None
    mean_perturbation: Sizes | None = None
    seconds: Number | None = None
    slots: Count | None = None
    expected_accuracy: Share | None = None
    replaced: list[str] | None = None
    stages: list[StageSummary] | None = None
    median_distance: Number | None = ABSENT
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


# Each is a file in `evaluation/analyses/` and one in `report/figures/`. In this order
# they run; of two flags of one name the first one's counts.
ANALYSES = (
    "smallest_perturbation",
    "curve",
    "query_budgets",
    "growth",
    "class_ranks",
    "probability_gap",
    "representations",
    "loss_surface",
    "universal",
    "corruptions",
    "corruption_set",
    "certificates",
    "gradient_masking",
)


class EvaluatedNetwork(Part):
    """Which network was evaluated, and how that is asked for.

    `checkpoint` is one of a run's, or a path; `trained_steps` how long that run had
    trained then.
    """

    command: str | None = None
    checkpoint: str | None = None
    trained_steps: Count | None = None


class Results(Part):
    """All of results.json."""

    clean: Clean
    attacks: list[AttackSummary]
    worst_case: WorstCase
    flags: list[Flag]
    other_threats: list[OtherThreat] | None = None
    per_class: list[OfClass] | None = None
    stopping: Stopping | None = None
    diagnostics: Diagnostics | None = None
    curve: Curve | None = None
    queries: list[QueryCurve] | None = None
    growth: GrowthSummary | None = None
    analyses: Analyses | None = None
    loss_surface: LossSurface | None = None
    universal: Universal | None = None
    corruptions: Corruptions | None = None
    corruption_set: CorruptionSet | None = None
    certified: Certified | None = None
    smoothed: SmoothedAccuracy | None = None
    own_analyses: dict[str, dict[str, Any]] | None = None
    comparison: Comparison | None = None
    suite: str | None = None
    preprocessing: str | None = None
    pending: list[Pending] | None = None
    randomised: Randomised | None = None
    black_box: bool | None = None
    data: Data | None = None
    environment: dict[str, Any] | None = None
    evaluated: EvaluatedNetwork | None = None
    schema: Count = VERSION


class Compared(Part):
    """What a comparison reads of it."""

    data: Data
    attacks: list[Asked]
    clean: Clean | None = None
    worst_case: WorstCase | None = None
    evaluated: EvaluatedNetwork | None = None
