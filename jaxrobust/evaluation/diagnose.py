"""Whether a network's robust accuracy can be believed, for any function to logits."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import attacks, threat
from jaxrobust.analysis import logits as outputs
from jaxrobust.analysis import masking, slopes
from jaxrobust.array_types import Bounds, Images, Key, Labels, Logits, LogitsFn, Norm
from jaxrobust.attacks import stepping
from jaxrobust.evaluation import flags, gradient_check, step, trial_attacks
from jaxrobust.evaluation.network import CompiledNetwork, compile_network, in_batches
from jaxrobust.evaluation.radius import STEP_SHARE
from jaxrobust.results import schema, typed


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
) -> tuple[dict[str, Any], list[flags.Flag]]:
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
      The numbers as results.json has them under `diagnostics`, and the flags.

    Raises:
      ValueError, TypeError: naming the argument; for logits that are not finite.
    """
    threat.check_one_radius("eps", eps)
    if step_size is not None:
        threat.check_one_radius("step_size", step_size)
    stepping.check_examples(x, y, bounds)
    check_counts({"steps": steps, "restarts": restarts, "queries": queries})
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    step_size = STEP_SHARE * eps / steps if step_size is None else step_size
    ball: Any = {"eps": eps, "norm": norm, "bounds": bounds}
    with jax.default_matmul_precision(precision):
        # This attack is the one that checks what it is given.
        keys = threat.row_keys(key, len(x))
        squares = _square(logits_fn, x, y, keys, queries, batch_size, ball)
        x, y = jnp.asarray(x), jnp.asarray(y)
        network = compile_network(logits_fn, x, batch_size)
        if on_pass is not None:
            total = 1 + trial_attacks.count_gradients(steps, restarts)
            network = _reporting(network, total, on_pass)
        gradient, clean = network.gradient(x, y, 1.0)
        step.check_finite(np.asarray(clean))
        logits = _logits(clean, y, network.resolution)
        trials = trial_attacks.Trials(
            network, x, y, step_size=step_size, steps=steps, **ball
        )
        numbers = schema.Diagnostics(
            n=len(x),
            norm=norm,
            eps=float(eps),
            step_size=float(step_size),
            steps=steps,
            restarts=restarts,
            queries=queries,
            predictions=flags.predictions(np.asarray(clean), np.asarray(y)),
            logits=logits,
            calls=_calls(logits_fn, network, x, bounds),
            gradients=_gradients(network, gradient, x, y, keys=keys, **ball),
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
    return typed.as_json(numbers), flags.from_diagnostics(numbers)


def check_counts(fields: Mapping[str, Any], prefix: str = "") -> None:
    """Checks those numbers of examples, steps, restarts and queries that are given."""
    for name, least in (("examples", 0), ("steps", 1), ("restarts", 0), ("queries", 0)):
        if fields.get(name, least) < least:
            raise ValueError(
                f"`{prefix}{name}` must be at least {least}, got {fields[name]}."
            )


def _reporting(
    network: CompiledNetwork, total: int, on_pass: Callable[[int, int], None]
) -> CompiledNetwork:
    """Reports every gradient of all images."""
    done = iter(range(1, total + 1))

    def gradient(x: Images, y: Labels, scale: float) -> tuple[Images, Logits]:
        found = network.gradient(x, y, scale)
        on_pass(next(done), total)
        return found

    return dataclasses.replace(network, gradient=gradient)


def _square(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    keys: Key,
    queries: int,
    batch_size: int,
    ball: Mapping[str, Any],
) -> Images:
    """Runs a short square attack; what it would warn about is measured anyway."""

    def attack(x: Images, y: Labels, keys: Key) -> Images:
        return attacks.square(logits_fn, x, y, key=keys, queries=queries, **ball)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.RobustnessWarning)
        size = min(batch_size, len(x))
        return in_batches(attack, size, x, y, trial_attacks.row_stream(keys, "square"))


def _logits(clean: Logits, y: Labels, resolution: float) -> schema.LogitsSeen:
    found, logits = outputs.saturation(clean, y, resolution), np.asarray(clean)
    return schema.LogitsSeen(
        probabilities=outputs.looks_like_probabilities(logits),
        certain_share=float(found.certain.mean()),
        no_loss_share=float(found.no_loss.mean()),
        at_ceiling_share=float(found.at_ceiling.mean()),
        largest=float(np.abs(logits).max()),
        rescaled_by=trial_attacks.LEAD / outputs.typical_lead(logits),
    )


def _calls(
    logits_fn: LogitsFn, network: CompiledNetwork, x: Images, bounds: Bounds
) -> schema.Calls:
    """Calls the network on the same images in several ways."""
    first = network.forward(x)

    def change(other: Any, n: int = len(x), *, rounds: bool = True) -> float:
        pair = (np.asarray(first)[:n], np.asarray(other))
        return outputs.relative_change(*pair, network.resolution * rounds)

    few = x[: max(1, network.size // 2)]
    smaller = compile_network(logits_fn, few, len(few)).forward(few)
    other_size, traced_again = change(smaller, len(few)), None
    if not other_size <= flags.BATCH_CHANGE:
        # The size, or randomness that was frozen when the network was traced?
        anew = compile_network(logits_fn, x, network.size).forward(x)
        traced_again = change(anew)
    return schema.Calls(
        same_batch=change(network.forward(x), rounds=False),
        other_batch=change(masking.among_others(network.forward, x, bounds)),
        other_size=other_size,
        traced_again=traced_again,
    )


def _gradients(
    network: CompiledNetwork, gradient: Images, x: Images, y: Labels, **options: Any
) -> schema.Gradients:
    """Looks at the gradients, and compares them with finite differences."""
    zero, finite, length = map(np.asarray, masking.gradient_health(gradient))
    found = slopes.measure(
        network.forward, network.slope, x, y, resolution=network.resolution, **options
    )
    return schema.Gradients(
        zero_gradient_share=float(zero.mean()),
        non_finite_gradient_share=float((~finite).mean()),
        median_length=float(np.median(length)),
        **vars(gradient_check.summary(found, network.resolution)),
    )
