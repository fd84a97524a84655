"""The iteration that fgsm, bim, pgd and mim share."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, PerExample, Scalar
from jaxrobust.attacks import _checks
from jaxrobust.attacks._method import (
    Count,
    Health,
    Method,
    first_health,
    like,
    model_keys,
    watch_step,
)
from jaxrobust.attacks._objective import (
    Problem,
    evaluate,
    gradient,
)
from jaxrobust.attacks._quantize import to_levels


class Carry(NamedTuple):
    """State between two steps; None where an attack does not need the part."""

    x: Images
    momentum: Images | None
    best: tuple[Images, PerExample] | None
    direction: Images | None
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Ascent(Method):
    """Steepest steps back into ball and box, and what tells such attacks apart."""

    ball = True

    decay: float | None = None
    keep_best: bool = False

    def check(self) -> None:
        """Raises for a decay out of range."""
        if self.decay is not None:
            _checks.check_ranges(decay=self.decay)

    def start(
        self, problem: Problem, keys: Key | None, r: Count, *, watch: bool = False
    ) -> Carry:
        """Makes the first point: the clean image or a draw from the ball."""
        del r  # the keys are its own
        x = problem.x
        if self.random_start:
            assert keys is not None
            x = threat.sample(
                x, key=keys, eps=problem.eps, norm=problem.norm, bounds=problem.bounds
            )
            x = _quantized(problem, x)
        momentum = None if self.decay is None else jnp.zeros_like(x)
        best = (x, jnp.full(x.shape[:1], -jnp.inf, x.dtype)) if self.keep_best else None
        direction = jnp.zeros_like(x) if self.keep_best else None
        health = first_health(problem, self.steps, keys, x) if watch else None
        return Carry(x, momentum, best, direction, health)

    def step(self, problem: Problem, keys: Key | None, i: Count, carry: Carry) -> Carry:
        """One ascent step, back into the ball and the box."""
        grad, at = gradient(problem, carry.x, model_keys(problem, keys, i))
        best = None if carry.best is None else _keep(carry.best, carry.x, at.value)
        health = None if carry.health is None else watch_step(carry.health, grad, at, i)
        momentum = None
        if self.decay is not None and carry.momentum is not None:
            momentum = self.decay * carry.momentum + _over_mean(grad)
            grad = momentum
        x = _moved(problem, carry.x, grad, problem.step_size)
        direction = None if carry.direction is None else grad
        return Carry(x, momentum, best, direction, health)

    def finish(self, problem: Problem, keys: Key | None, carry: Carry) -> Images:
        """Returns the last point, or the best one where the attack keeps it.

        In L1 a step is long in few coordinates, and the projection takes some of all
        of them back: the last point may be worse than one before, and steps need not
        reach the optimum even of a linear loss. So the best point is kept, and the
        vertex of ball and box that the last direction points to (that optimum) is
        tried as well.
        """
        if carry.best is None or carry.direction is None:
            return carry.x
        best = carry.best
        last_keys = model_keys(problem, keys, self.steps)
        vertex = _moved(problem, problem.x, carry.direction, problem.eps)
        for x in (carry.x, vertex) if self.steps else (carry.x,):
            best = _keep(best, x, evaluate(problem, x, last_keys).value)
        return best[0]


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


def _keep(
    best: tuple[Images, PerExample], x: Images, value: PerExample
) -> tuple[Images, PerExample]:
    wins = value > best[1]
    return jnp.where(like(wins, x), x, best[0]), jnp.where(wins, value, best[1])


def _over_mean(grad: Images) -> Images:
    """Divides a gradient by its mean absolute value per image; zero stays zero."""
    axes = tuple(range(1, grad.ndim))
    limit = jnp.finfo(grad.dtype).max / 8
    grad = jnp.clip(jnp.nan_to_num(grad), -limit, limit)
    largest = jnp.max(jnp.abs(grad), axis=axes, keepdims=True)
    grad = grad / jnp.where(largest > 0, largest, 1)
    mean = jnp.mean(jnp.abs(grad), axis=axes, keepdims=True)
    return grad / jnp.where(mean > 0, mean, 1)
