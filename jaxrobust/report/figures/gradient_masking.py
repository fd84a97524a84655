"""The numbers behind the signs of masked gradients."""

from jaxrobust.report.figures.places import Place
from jaxrobust.report.html import Markup, details, table
from jaxrobust.report.source import Arrays
from jaxrobust.report.verdict import percent
from jaxrobust.results import Results

PLACE = Place.WARNINGS

TRIALS = {
    "clean": "no attack",
    "noise": "random noise",
    "square": "black box ({queries} queries)",
    "single_step": "a single step",
    "iterative": "{steps} steps",
    "more_steps": "four times the steps",
    "more_restarts": "{steps} steps, more starts ({restarts})",
    "rescaled": "{steps} steps, logits rescaled in the loss",
    "covering": "{steps} steps, any image allowed",
}
POINTS = {
    "clean_near": "clean image, step of a thousandth",
    "clean_far": "clean image, step of a tenth of the radius",
    "in_ball_near": "in the ball, step of a thousandth",
    "in_ball_far": "in the ball, step of a tenth of the radius",
}


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Makes tables of what was checked."""
    numbers = results.diagnostics
    if numbers is None:
        return []
    left, gradients, calls = numbers.accuracy, numbers.gradients, numbers.calls
    rows = [
        [text.format(**vars(numbers)), percent(left[n])]
        for n, text in TRIALS.items()
        if n in left
    ]
    told = gradients.explained_at or {}  # older results have none of it
    shares = [
        ["images with a zero gradient", percent(gradients.zero_gradient_share)],
        ["loss rises along its gradient", percent(gradients.loss_rises_share)],
        *(
            [f"change that the gradient tells: {about}", _known(told[name])]
            for name, about in POINTS.items()
            if name in told
        ),
        ["float32 loss exactly 0", percent(numbers.logits.no_loss_share)],
        ["change when asked again", percent(calls.same_batch)],
        ["change with the rest of the batch", percent(calls.other_batch)],
    ]
    attacked = table(["attack", "accuracy left"], rows, right=(1,))
    signs = table(["sign", "share"], shares, right=(1,))
    return [details(f"What was checked, on {numbers.n:,} images", attacked, signs)]


def _known(share: float | None) -> str:
    return "lost in rounding" if share is None else percent(max(share, 0.0))
