"""The numbers behind the signs of masked gradients."""

from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, details, table
from jaxrobust.report.source import Arrays
from jaxrobust.report.verdict import percent
from jaxrobust.results import Results
from jaxrobust.results.analysis_schema import Diagnostics, ExplainedAt
from jaxrobust.results.typed import ABSENT

PLACE = Place.WARNINGS

NEAR, FAR = "step of a thousandth", "step of a tenth of the radius"


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Makes tables of what was checked."""
    numbers = results.diagnostics
    if numbers is None:
        return []
    gradients, calls = numbers.gradients, numbers.calls
    shares = [
        ["images with a zero gradient", percent(gradients.zero_gradient_share)],
        ["loss rises along its gradient", percent(gradients.loss_rises_share)],
        *_explained(gradients.explained_at or ExplainedAt()),
        ["float32 loss exactly 0", percent(numbers.logits.no_loss_share)],
        ["change when asked again", percent(calls.same_batch)],
        ["change with the rest of the batch", percent(calls.other_batch)],
    ]
    attacked = table(["attack", "accuracy left"], _left(numbers), right=(1,))
    signs = table(["sign", "share"], shares, right=(1,))
    return [details(f"What was checked, on {numbers.n:,} images", attacked, signs)]


def _left(numbers: Diagnostics) -> list[list[str]]:
    """What each attack leaves, as far as it ran."""
    left, steps = numbers.accuracy, f"{numbers.steps} steps"
    rows = (
        ("no attack", left.clean),
        ("random noise", left.noise),
        (f"black box ({numbers.queries} queries)", left.square),
        ("a single step", left.single_step),
        (steps, left.iterative),
        ("four times the steps", left.more_steps),
        (f"{steps}, more starts ({numbers.restarts})", left.more_restarts),
        (f"{steps}, logits rescaled in the loss", left.rescaled),
        (f"{steps}, any image allowed", left.covering),
    )
    return [[text, percent(share)] for text, share in rows if share is not None]


def _explained(told: ExplainedAt) -> list[list[str]]:
    """What gradients tell of small steps; older results have none or some of it."""
    rows = (
        (f"clean image, {NEAR}", told.clean_near),
        (f"clean image, {FAR}", told.clean_far),
        (f"in the ball, {NEAR}", told.in_ball_near),
        (f"in the ball, {FAR}", told.in_ball_far),
        (f"on the way of an attack, {NEAR}", told.attacked_near),
        (f"on the way of an attack, {FAR}", told.attacked_far),
    )
    return [
        [f"change that the gradient tells: {about}", _known(share)]
        for about, share in rows
        if share is not ABSENT
    ]


def _known(share: float | None) -> str:
    return "lost in rounding" if share is None else percent(max(share, 0.0))
