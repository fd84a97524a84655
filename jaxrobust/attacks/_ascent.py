"""The gradient family: ascent of a loss, a step at a time, inside ball and box.

An attack of it is a loss and a threat (the problem's), a change of the images before
the model sees them, a direction made of gradients, a rule for the step along it, a
start and a number of restarts; see `pgd`, `mim` and `fgsm`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._directions import GRADIENT, Direction
from jaxrobust.attacks._eager import Unroll, iterate
from jaxrobust.attacks._method import (
    Count,
    Health,
    Method,
    first_health,
    like,
    model_keys,
    watch_step,
)
from jaxrobust.attacks._objective import Problem, evaluate, fold, gradient
from jaxrobust.attacks._options import BallOptions
from jaxrobust.attacks._quantize import to_levels

_INPUT_STREAM = 0x696E70

# `(images, keys [B]) -> images`, drawn anew in each step, before the model.
Transform = Callable[[Images, Key], Images]
# `(problem, images, direction, length) -> images`, not yet back in the ball.
Rule = Callable[[Problem, Images, Images, Scalar], Images]


def steepest(problem: Problem, x: Images, direction: Images, length: Scalar) -> Images:
    """The step of this length in the norm that a linear loss rises most along."""
    return threat.steepest_step(
        x, direction, step_size=length, norm=problem.norm, bounds=problem.bounds
    )


def straight(problem: Problem, x: Images, direction: Images, length: Scalar) -> Images:
    """A multiple of the direction, as optimisers make it (Adam)."""
    del problem
    return x + threat.per_row(length, x) * direction


class Carry(NamedTuple):
    """State between two steps; None where an attack does not need the part."""

    x: Images
    direction_state: Any
    best: tuple[Images, PerExample] | None
    direction: Images | None
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Ascent(Method):
    """An attack of the family. Its functions are of modules, so that equal is equal.

    Attributes:
      direction: of steps, from gradients.
      rule: of a step along it.
      transform: of the images whose gradient is taken.
      keep_best: return the best point by loss, not the last.
    """

    ball = True

    direction: Direction = GRADIENT
    rule: Rule = steepest
    transform: Transform | None = None
    keep_best: bool = False

    @property
    def needs_key(self) -> str | None:
        """For a start, or images, drawn at random."""
        return super().needs_key or ("`transform`" if self.transform else None)

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
        best = (x, jnp.full(x.shape[:1], -jnp.inf, x.dtype)) if self.keep_best else None
        direction = jnp.zeros_like(x) if self.keep_best else None
        health = first_health(problem, self.steps, keys, x) if watch else None
        return Carry(x, self.direction.init(x), best, direction, health)

    def step(self, problem: Problem, keys: Key | None, i: Count, carry: Carry) -> Carry:
        """One ascent step, back into the ball and the box."""
        asked = self._transformed(problem, keys, i)
        grad, at = gradient(asked, carry.x, model_keys(problem, keys, i))
        best = None if carry.best is None else _keep(carry.best, carry.x, at.value)
        health = None if carry.health is None else watch_step(carry.health, grad, at, i)
        direction, state = self.direction.update(grad, carry.direction_state)
        x = self._moved(problem, carry.x, direction, problem.step_size)
        last = None if carry.direction is None else direction
        return Carry(x, state, best, last, health)

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
        vertex = self._moved(problem, problem.x, carry.direction, problem.eps)
        for x in (carry.x, vertex) if self.steps else (carry.x,):
            best = _keep(best, x, evaluate(problem, x, last_keys).value)
        return best[0]

    def _transformed(self, problem: Problem, keys: Key | None, i: Count) -> Problem:
        """The problem whose model sees the images as they are drawn for step i."""
        change, model = self.transform, problem.logits_fn
        if change is None:
            return problem
        drawn = fold(fold(keys, _INPUT_STREAM), i)
        assert drawn is not None
        return dataclasses.replace(
            problem, logits_fn=lambda x, *own: model(change(x, drawn), *own)
        )

    def _moved(
        self, problem: Problem, x: Images, direction: Images, length: Scalar
    ) -> Images:
        """Steps from `x` along a direction, then back into ball and box."""
        x = threat.project(
            self.rule(problem, x, direction, length),
            problem.x,
            eps=problem.eps,
            norm=problem.norm,
            bounds=problem.bounds,
        )
        return _quantized(problem, x)


def ascend(
    method: Ascent,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    eps: Scalar,
    step_size: Scalar,
    unroll: Unroll = None,
    **options: Unpack[BallOptions],
) -> Images:
    """Runs an attack of the family; options and result are those of `pgd`."""
    fields: dict[str, Any] = {**options}
    key = fields.pop("key", None)
    problem = Problem(logits_fn, x, y, eps, step_size, **fields)
    return iterate(problem, method, key, unroll)


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
