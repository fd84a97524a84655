"""The iteration that fgsm, bim, pgd and mim share."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, Logits, PerExample, Scalar
from jaxrobust.attacks._objective import (
    Evaluated,
    OnInput,
    Problem,
    call_model,
    evaluate,
    fold,
    gradient,
)
from jaxrobust.attacks._quantize import to_levels

Count = int | jax.Array

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
    """What an eager call warns about, per example."""

    finite: jax.Array  # logits at the first point of the first restart
    probabilities: jax.Array  # likewise: the logits look like probabilities
    zero_gradient: jax.Array  # at every step of every restart


class Carry(NamedTuple):
    """State between two steps; None where an attack does not need the part."""

    x: Images
    momentum: Images | None
    best: tuple[Images, PerExample] | None
    direction: Images | None
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
        return merge(best, score(problem, ascent, keys, r + 1, once(fold(keys, r + 1))))

    best = score(problem, ascent, keys, 0, once(keys))
    outer = True if unroll is True else 1
    best = repeat(ascent.restarts - 1, restart, best, outer)
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
    direction = jnp.zeros_like(x) if ascent.keep_best else None
    health = _first_health(problem, ascent, keys, x) if watch else None
    return Carry(x, momentum, best, direction, health)


def step(
    problem: Problem, ascent: Ascent, keys: Key | None, i: Count, carry: Carry
) -> Carry:
    """One ascent step, back into the ball and the box."""
    grad, at = gradient(problem, carry.x, _model_keys(problem, keys, i))
    best = None if carry.best is None else _keep(carry.best, carry.x, at.value)
    health = None if carry.health is None else _watch(carry.health, grad, at, i)
    momentum = None
    if ascent.decay is not None and carry.momentum is not None:
        momentum = ascent.decay * carry.momentum + _over_mean(grad)
        grad = momentum
    x = _moved(problem, carry.x, grad, problem.step_size)
    direction = None if carry.direction is None else grad
    return Carry(x, momentum, best, direction, health)


def finish(problem: Problem, ascent: Ascent, keys: Key | None, carry: Carry) -> Images:
    """Returns the last point, or the best one where the attack keeps it.

    In L1 a step is long in few coordinates, and the projection takes some of all of
    them back: the last point may be worse than one before, and steps need not reach
    the optimum even of a linear loss. So the best point is kept, and the vertex of
    ball and box that the last direction points to (that optimum) is tried as well.
    """
    if carry.best is None or carry.direction is None:
        return carry.x
    best = carry.best
    model_keys = _model_keys(problem, keys, ascent.steps)
    vertex = _moved(problem, problem.x, carry.direction, problem.eps)
    for x in (carry.x, vertex) if ascent.steps else (carry.x,):
        best = _keep(best, x, evaluate(problem, x, model_keys).value)
    return best[0]


def score(
    problem: Problem, ascent: Ascent, keys: Key | None, r: Count, carry: Carry
) -> Best:
    """Ends restart r and evaluates its result, with one randomness for all restarts."""
    x = finish(problem, ascent, restart_keys(keys, r), carry)
    at = evaluate(problem, x, fold(keys, _SCORE_STREAM) if problem.stochastic else None)
    assert at.fooled is not None
    value = jnp.where(jnp.isnan(at.value), -jnp.inf, at.value)
    return Best(x, value, at.fooled, carry.health)


def merge(best: Best, new: Best) -> Best:
    """Keeps, per example, a fooled point over one that is not, then the higher loss."""
    wins = (new.fooled & ~best.fooled) | (
        (new.fooled == best.fooled) & (new.value > best.value)
    )
    health = None
    if best.health is not None and new.health is not None:
        health = best.health._replace(
            zero_gradient=best.health.zero_gradient & new.health.zero_gradient
        )
    return Best(
        jnp.where(_like(wins, best.x), new.x, best.x),
        jnp.where(wins, new.value, best.value),
        jnp.where(wins, new.fooled, best.fooled),
        health,
    )


def restart_keys(keys: Key | None, r: Count) -> Key | None:
    """Keys of restart r: the first one uses them as they are."""
    if keys is None or (isinstance(r, int) and r == 0):
        return keys
    folded = fold(keys, r)
    assert folded is not None
    return jnp.where(jnp.asarray(r) == 0, keys, folded)


def repeat(
    times: int, body: Callable[[jax.Array, Any], Any], init: Any, unroll: int | bool
) -> Any:
    """`fori_loop` from 0, or the steps written out where `unroll` is True."""
    if unroll is True or times <= 1:
        for i in range(times):
            init = body(jnp.int32(i), init)
        return init
    return jax.lax.fori_loop(0, times, body, init, unroll=int(unroll))


def _moved(problem: Problem, x: Images, direction: Images, length: Scalar) -> Images:
    """Steps from `x` along a direction, then back into ball and box."""
    x = threat.steepest_step(
        x, direction, step_size=length, norm=problem.norm, bounds=problem.bounds
    )
    x = threat.project(
        x, problem.x, eps=problem.eps, norm=problem.norm, bounds=problem.bounds
    )
    return _quantized(problem, x)


def _quantized(problem: Problem, x: Images) -> Images:
    if not problem.quantize:
        return x
    return to_levels(
        x, problem.x, eps=problem.eps, norm=problem.norm, bounds=problem.bounds
    )


def _model_keys(problem: Problem, keys: Key | None, i: Count) -> Key | None:
    return fold(fold(keys, _MODEL_STREAM), i) if problem.stochastic else None


def _keep(
    best: tuple[Images, PerExample], x: Images, value: PerExample
) -> tuple[Images, PerExample]:
    wins = value > best[1]
    return jnp.where(_like(wins, x), x, best[0]), jnp.where(wins, value, best[1])


def _first_health(
    problem: Problem, ascent: Ascent, keys: Key | None, x: Images
) -> Health | None:
    """Health before the first step; without steps, that of the logits at `x`."""
    rows = jnp.ones(x.shape[:1], bool)
    if ascent.steps:
        return Health(rows, ~rows, rows)
    if isinstance(problem.loss, OnInput):
        return None
    logits = call_model(problem, x, _model_keys(problem, keys, 0))
    return Health(*_look(logits), zero_gradient=~rows)


def _look(logits: Logits) -> tuple[jax.Array, jax.Array]:
    """Which rows are finite, and which look like probabilities."""
    finite = jnp.all(jnp.isfinite(logits), axis=1)
    in_range = jnp.all((logits >= 0) & (logits <= 1), axis=1)
    return finite, in_range & (jnp.abs(jnp.sum(logits, axis=1) - 1) < 1e-4)


def _watch(health: Health, grad: Images, at: Evaluated, i: Count) -> Health:
    zero = jnp.all(grad == 0, axis=tuple(range(1, grad.ndim)))
    zero_gradient = health.zero_gradient & zero
    if at.logits is None:
        return health._replace(zero_gradient=zero_gradient)
    finite, probabilities = _look(at.logits)
    first = i == 0
    return Health(
        jnp.where(first, finite, health.finite),
        jnp.where(first, probabilities, health.probabilities),
        zero_gradient,
    )


def _over_mean(grad: Images) -> Images:
    """Divides a gradient by its mean absolute value per image; zero stays zero."""
    axes = tuple(range(1, grad.ndim))
    limit = jnp.finfo(grad.dtype).max / 8
    grad = jnp.clip(jnp.nan_to_num(grad), -limit, limit)
    largest = jnp.max(jnp.abs(grad), axis=axes, keepdims=True)
    grad = grad / jnp.where(largest > 0, largest, 1)
    mean = jnp.mean(jnp.abs(grad), axis=axes, keepdims=True)
    return grad / jnp.where(mean > 0, mean, 1)


def _like(rows: jax.Array, x: Images) -> jax.Array:
    return rows.reshape(rows.shape + (1,) * (x.ndim - 1))
