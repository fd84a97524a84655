"""Whether a network's robust accuracy can be believed, for any function to logits."""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrobust import attacks, threat
from jaxrobust._checks import check_count, check_one_radius
from jaxrobust.analysis import masking
from jaxrobust.array_types import Bounds, Images, Key, Labels, Logits, LogitsFn, Norm
from jaxrobust.attacks import stepping
from jaxrobust.evaluation import flags, slopes, step, trial_attacks, verify
from jaxrobust.evaluation import logits as outputs
from jaxrobust.evaluation.network import CompiledNetwork, among_others, in_batches
from jaxrobust.evaluation.protocols import STEP_SHARE
from jaxrobust.results import analysis_schema

_COUNTS = {"examples": 0, "steps": 1, "restarts": 0, "queries": 0, "batch_size": 1}
# Fewer images than this share say nothing about the others.
_LEAST = 0.1
# Of the images, from the worst: where a gradient is broken for a quarter, it is broken.
QUANTILE = 0.25
# An image is misled where at neither distance more of the change than this is told.
MISLED = 0.6
# A coarser float type moves logits by more than their own rounding on the way.
_HALF = 1e-5


def diagnose(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key,
    eps: float,
    norm: Norm = "linf",
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    queries: int = 100,
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 250,
    precision: str = "highest",
    on_pass: Callable[[int, int], None] | None = None,
) -> tuple[analysis_schema.Diagnostics, list[flags.RaisedFlag]]:
    """Looks for signs that attacks on a network do not tell how robust it is.

    A hundred images are enough. Per image it takes (6 + restarts) * steps + 14
    gradients and about queries + 125 forward passes (in L1 one more per step): 154 and
    225 by default. It compiles one gradient, one square attack and the forward pass at
    two batch sizes.

    Args:
      logits_fn: images `[B, H, W, C]` to logits `[B, K]`, anyone's. Of a network that
        draws randomness from keys, bind them; one that changes by itself is flagged.
      x: images `[N, H, W, C]`, floating, inside `bounds`.
      y: labels `[N]`.
      key: one key (row i uses fold_in(key, i)) or one per example.
      eps: radius of the ball that robustness is claimed for.
      norm: 'linf', 'l2' or 'l1'.
      step_size: of the iterative attack; 2.5 eps / steps if None.
      steps: of it, at least 1; it also runs four times as long, and at the radius
        that covers all images.
      restarts: more random starts, at least 0.
      queries: of the square attack, at least 0.
      bounds: lowest and highest value of an image.
      batch_size: images per compiled call.
      precision: of matrix products.
      on_pass: told `(done, total)` after each gradient of all images.

    Returns:
      The numbers that results.json has under `diagnostics`, and the flags.

    Raises:
      ValueError, TypeError: naming the argument; for logits that are not finite.
    """
    check_one_radius("eps", eps)
    if step_size is not None:
        check_one_radius("step_size", step_size)
    stepping.check_examples(x, y, bounds)
    counts: Any = {"steps": steps, "restarts": restarts, "queries": queries}
    check_counts({**counts, "batch_size": batch_size})
    step_size = STEP_SHARE * eps / steps if step_size is None else step_size
    ball = verify.Ball(eps, norm, bounds)
    with jax.default_matmul_precision(precision):
        # This attack is the one that checks what it is given.
        keys = threat.row_keys(key, len(x))
        size = min(batch_size, len(x))
        squares = _square(logits_fn, x, y, keys, size, queries=queries, **vars(ball))
        x, y = jnp.asarray(x), jnp.asarray(y)
        network = CompiledNetwork(logits_fn, x[0], size)
        slope, done = network.gradient_fn(), itertools.count(1)
        # One at the clean images, and those that `trial_attacks.compare` takes.
        total = 1 + (trial_attacks.LONGER + restarts + 2) * steps

        def told(x: Images, y: Labels, scale: float) -> tuple[Images, Logits]:
            found = slope(x, y, scale)
            if on_pass is not None:
                on_pass(next(done), total)
            return found

        gradient, clean = told(x, y, 1.0)
        step.check_finite(np.asarray(clean))
        logits = _logits(clean, y, network.resolution)
        trials = trial_attacks.TrialSetting(network, told, x, y, ball, step_size, steps)
        numbers = analysis_schema.Diagnostics(
            n=len(x),
            norm=norm,
            eps=float(eps),
            step_size=float(step_size),
            **counts,
            predictions=flags.predictions(np.asarray(clean), np.asarray(y)),
            logits=logits,
            calls=_calls(logits_fn, network, x, bounds),
            gradient_inside=network.turns_weights_round,
            loop_inside=network.refines_in_a_loop,
            gradients=_gradients(
                network, slope, gradient, x=x, y=y, keys=keys, ball=ball
            ),
            **vars(
                trial_attacks.compare(
                    trials,
                    gradient,
                    squares,
                    keys=keys,
                    restarts=restarts,
                    scale=logits.rescaled_by,
                )
            ),
        )
    return numbers, flags.from_diagnostics(numbers)


def check_counts(fields: Mapping[str, Any], prefix: str = "") -> None:
    """Checks those counts of `fields` that are given: the least of each."""
    for name, least in _COUNTS.items():
        check_count(prefix + name, fields.get(name, least), least)


def _square(
    logits_fn: LogitsFn, x: Images, y: Labels, keys: Key, size: int, **options: Any
) -> Images:
    """Runs a short square attack; what it would warn about is measured anyway."""

    def attack(x: Images, y: Labels, keys: Key) -> Images:
        return attacks.square(logits_fn, x, y, key=keys, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.RobustnessWarning)
        return in_batches(attack, size, x, y, trial_attacks.row_stream(keys, "square"))


def _logits(clean: Logits, y: Labels, resolution: float) -> analysis_schema.LogitsSeen:
    found, logits = outputs.saturation(clean, y, resolution), np.asarray(clean)
    return analysis_schema.LogitsSeen(
        probabilities=outputs.looks_like_probabilities(logits),
        certain_share=float(found.certain.mean()),
        no_loss_share=float(found.no_loss.mean()),
        at_ceiling_share=float(found.at_ceiling.mean()),
        largest=float(np.abs(logits).max()),
        rescaled_by=trial_attacks.LEAD / outputs.typical_lead(logits),
    )


def _calls(
    logits_fn: LogitsFn, network: CompiledNetwork, x: Images, bounds: Bounds
) -> analysis_schema.Repeatability:
    """Calls the network on the same images in several ways."""
    first, resolution = network(x), network.resolution

    def change(other: Any, n: int = len(x), *, rounds: bool = True) -> float:
        return outputs.relative_change(first[:n], other, resolution * rounds)

    few = x[: max(1, network.size // 2)]
    smaller = CompiledNetwork(logits_fn, x[0], len(few))(few)
    other_size, traced_again = change(smaller, len(few)), None
    if not other_size <= flags.BATCH_CHANGE:
        # The size, or randomness that was frozen when the network was traced?
        traced_again = change(CompiledNetwork(logits_fn, x[0], network.size)(x))
    return analysis_schema.Repeatability(
        same_batch=change(network(x), rounds=False),
        other_batch=change(among_others(network, x, bounds)),
        other_size=other_size,
        traced_again=traced_again,
    )


def _gradients(
    network: CompiledNetwork,
    slope: Callable[..., Any],
    gradient: Images,
    **options: Any,
) -> analysis_schema.Gradients:
    """Looks at the gradients, and compares them with finite differences."""
    zero, finite, length = map(np.asarray, masking.gradient_health(gradient))
    odds, resolution = functools.partial(slope, odds=True), network.resolution
    found = slopes.measure(network, odds, resolution=resolution, **options)
    return analysis_schema.Gradients(
        zero_gradient_share=float(zero.mean()),
        non_finite_gradient_share=float((~finite).mean()),
        median_length=float(np.median(length)),
        **vars(gradient_check(found, resolution)),
    )


def gradient_check(
    found: slopes.Slopes, resolution: float
) -> analysis_schema.GradientCheck:
    """Makes numbers of gradients beside finite differences, measured at a resolution.

    What the gradient tells of three quarters of the images at least (`QUANTILE`) counts
    per point and distance; it is None where too few have a change that is clear of
    rounding, and near by in half precision.
    """
    clean, in_ball, attacked = ([*map(_lower, place)] for place in found.explained)
    near = [place[0] for place in (clean, in_ball, attacked)]
    far = [place[1] for place in (clean, in_ball, attacked)]
    rises = found.rises[np.isfinite(found.rises)]
    best = np.where(np.isfinite(found.explained), found.explained, -np.inf).max(1)
    misled = (np.isfinite(best) & (best < MISLED)).sum(-1).max()
    misled = misled if misled > 1 else 0  # one alone may be luck
    return analysis_schema.GradientCheck(
        explained=_least([*near, *far]),
        explained_at=analysis_schema.ExplainedAt(
            clean_near=clean[0],
            clean_far=clean[1],
            in_ball_near=in_ball[0],
            in_ball_far=in_ball[1],
            attacked_near=attacked[0],
            attacked_far=attacked[1],
        ),
        explained_near=_least(near) if resolution < _HALF else None,
        misled_share=float(misled / best.shape[-1]),
        loss_rises_share=float(rises.mean()) if len(rises) else None,
        loss_rises_n=len(rises),
        zero_slope_share=float(found.zero.mean(-1).max()),
        changed_share=float(found.changed.mean()),
    )


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _lower(explained: Float[np.ndarray, "N"]) -> float | None:
    known = explained[np.isfinite(explained)]
    if len(known) < _LEAST * len(explained):
        return None
    return float(np.quantile(known, QUANTILE))
