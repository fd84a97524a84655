"""The iteration that fgsm, bim, pgd and mim share."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, PerExample
from jaxrobust.attacks._objective import Evaluated, Problem, evaluate, fold, gradient
from jaxrobust.attacks._quantize import to_levels

# Streams of a row's key; the key itself draws the random start.
_MODEL_STREAM = 0x6D6F64
_SCORE_STREAM = 0x73636F


@dataclasses.dataclass(frozen=True)
class Ascent:
    """What tells one iterated attack from another."""

    steps: int
    restarts: int = 1
    random_start: bool = False
    decay: float | None = None
    keep_best: bool = False


class Health(NamedTuple):
    """What an eager call warns about."""

    finite: jax.Array
    zero_gradient: jax.Array
    probabilities: jax.Array


class Carry(NamedTuple):
    """State between two steps; None where an attack does not need the part."""

    x: Images
    momentum: Images | None
    best: tuple[Images, PerExample] | None
    health: Health | None


class Best(NamedTuple):
    """The best restart so far, per example."""

    x: Images
    value: PerExample
    fooled: jax.Array
    health: Health | None


def run(
    problem: Problem,
    ascent: Ascent,
    keys: Key | None,
    *,
    unroll: int | bool = 1,
    watch: bool = False,
) -> tuple[Images, Health | None]:
    """Runs all restarts and returns the per-example worst, with health if watched."""

    def once(row_keys: Key | None) -> Carry:
        return repeat(
            ascent.steps,
            lambda i, carry: step(problem, ascent, row_keys, i, carry),
            start(problem, ascent, row_keys, watch=watch),
            unroll,
        )

    if ascent.restarts == 1:
        carry = once(keys)
        return finish(problem, ascent, keys, carry), carry.health

    def restart(r: jax.Array, best: Best) -> Best:
        row_keys = fold(keys, r)
        carry = once(row_keys)
        return better(
            problem, finish(problem, ascent, row_keys, carry), keys, carry, best
        )

    carry = once(keys)
    best = better(problem, finish(problem, ascent, keys, carry), keys, carry, None)
    outer = True if unroll is True else 1
    best = repeat(ascent.restarts - 1, lambda r, b: restart(r + 1, b), best, outer)
    return best.x, best.health


def start(
    problem: Problem, ascent: Ascent, keys: Key | None, *, watch: bool = False
) -> Carry:
    """Makes the first point: the clean image or a draw from the ball."""
    x = problem.x
    if ascent.random_start:
        assert keys is not None
        x = threat.sample(
            x, key=keys, eps=problem.eps, norm=problem.norm, bounds=problem.bounds
        )
        x = _quantized(problem, x)
    momentum = None if ascent.decay is None else jnp.zeros_like(x)
    best = (x, jnp.full(x.shape[:1], -jnp.inf, x.dtype)) if ascent.keep_best else None
    rows = jnp.ones(x.shape[:1], bool)
    health = Health(rows, rows, ~rows) if watch else None
    return Carry(x, momentum, best, health)


def step(
    problem: Problem, ascent: Ascent, keys: Key | None, i: jax.Array | int, carry: Carry
) -> Carry:
    """One ascent step, back into the ball and the box."""
    grad, at = gradient(problem, carry.x, _model_keys(problem, keys, i))
    best = None if carry.best is None else _keep(carry.best, carry.x, at.value)
    health = None if carry.health is None else _watch(carry.health, grad, at, i)
    momentum = None
    if ascent.decay is not None:
        momentum = ascent.decay * carry.momentum + _over_mean(grad)
        grad = momentum
    x = threat.steepest_step(
        carry.x,
        grad,
        step_size=problem.step_size,
        norm=problem.norm,
        bounds=problem.bounds,
    )
    x = threat.project(
        x, problem.x, eps=problem.eps, norm=problem.norm, bounds=problem.bounds
    )
    return Carry(_quantized(problem, x), momentum, best, health)


def finish(problem: Problem, ascent: Ascent, keys: Key | None, carry: Carry) -> Images:
    """Returns the last point, or the best one where the attack keeps it."""
    if carry.best is None:
        return carry.x
    # A step of L1 length eps leaps across the ball, and the last leap may miss.
    at = evaluate(problem, carry.x, _model_keys(problem, keys, ascent.steps))
    return _keep(carry.best, carry.x, at.value)[0]


def better(
    problem: Problem, x: Images, keys: Key | None, carry: Carry, best: Best | None
) -> Best:
    """Keeps, per example, a fooled point over one that is not, then the higher loss.

    All restarts are scored with the same model randomness.
    """
    scored = evaluate(problem, x, fold(keys, _SCORE_STREAM))
    assert scored.fooled is not None
    value = jnp.where(jnp.isnan(scored.value), -jnp.inf, scored.value)
    if best is None:
        return Best(x, value, scored.fooled, carry.health)
    wins = (scored.fooled & ~best.fooled) | (
        (scored.fooled == best.fooled) & (value > best.value)
    )
    health = None
    if best.health is not None and carry.health is not None:
        health = Health(
            best.health.finite & carry.health.finite,
            best.health.zero_gradient & carry.health.zero_gradient,
            best.health.probabilities,
        )
    return Best(
        jnp.where(_like(wins, x), x, best.x),
        jnp.where(wins, value, best.value),
        jnp.where(wins, scored.fooled, best.fooled),
        health,
    )


def repeat(
    times: int, body: Callable[[jax.Array, Any], Any], init: Any, unroll: int | bool
) -> Any:
    """`fori_loop` from 0, or the steps written out where `unroll` is True."""
    if unroll is True:
        for i in range(times):
            init = body(jnp.int32(i), init)
        return init
    return jax.lax.fori_loop(0, times, body, init, unroll=int(unroll))


def _quantized(problem: Problem, x: Images) -> Images:
    if not problem.quantize:
        return x
    return to_levels(
        x, problem.x, eps=problem.eps, norm=problem.norm, bounds=problem.bounds
    )


def _model_keys(problem: Problem, keys: Key | None, i: jax.Array | int) -> Key | None:
    return fold(fold(keys, _MODEL_STREAM), i) if problem.stochastic else None


def _keep(
    best: tuple[Images, PerExample], x: Images, value: PerExample
) -> tuple[Images, PerExample]:
    wins = value > best[1]
    return jnp.where(_like(wins, x), x, best[0]), jnp.where(wins, value, best[1])


def _watch(health: Health, grad: Images, at: Evaluated, i: jax.Array | int) -> Health:
    zero = jnp.all(grad == 0, axis=tuple(range(1, grad.ndim)))
    zero_gradient = health.zero_gradient & zero
    if at.logits is None:
        return health._replace(zero_gradient=zero_gradient)
    logits = at.logits
    in_range = jnp.all((logits >= 0) & (logits <= 1), axis=1)
    sums_to_one = jnp.abs(jnp.sum(logits, axis=1) - 1) < 1e-4
    return Health(
        health.finite & jnp.all(jnp.isfinite(logits), axis=1),
        zero_gradient,
        jnp.where(i == 0, in_range & sums_to_one, health.probabilities),
    )


def _over_mean(grad: Images) -> Images:
    """Divides a gradient by its mean absolute value per image; zero stays zero."""
    axes = tuple(range(1, grad.ndim))
    grad = jnp.nan_to_num(grad, posinf=0.0, neginf=0.0)
    largest = jnp.max(jnp.abs(grad), axis=axes, keepdims=True)
    grad = grad / jnp.where(largest > 0, largest, 1)
    mean = jnp.mean(jnp.abs(grad), axis=axes, keepdims=True)
    return grad / jnp.where(mean > 0, mean, 1)


def _like(rows: jax.Array, x: Images) -> jax.Array:
    return rows.reshape(rows.shape + (1,) * (x.ndim - 1))
