"""The gradient family: ascent of a loss, a step at a time, inside ball and box.

An attack of it is a loss and a threat (the problem's), a view (a change of the images
before the model sees them), a direction made of gradients, a rule for the step along
it, a start and a number of restarts; see `pgd`, `mim`, `dim` and `spsa`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import threat
from jaxrobust.array_types import Images, PerExample, Scalar
from jaxrobust.attacks._method import Count, Health, Method, choose, model_keys, watched
from jaxrobust.attacks._objective import (
    Evaluated,
    Judged,
    Keys,
    Problem,
    evaluate,
    fold,
    gradient,
    mean_of,
)

_INPUT_STREAM = 0x696E70
_LEVELS = 255

# `(problem, images, direction, length) -> images`, not yet back in the ball.
Rule = Callable[[Problem, Images, Images, Scalar], Images]


class View:
    """A change of the images before the model sees them, drawn anew in each step.

    Subclasses are frozen dataclasses, so that equal ones compile once. The gradient is
    the mean over `copies` of a view.
    """

    # What draws at random, in words.
    random: ClassVar[str | None] = None

    @property
    def needs_key(self) -> str | None:
        """Why it draws randomness, or None."""
        return self.random

    @property
    def copies(self) -> int:
        """How many there are."""
        return 1

    def __call__(self, problem: Problem, x: Images, keys: Keys, copy: Count) -> Images:
        """Changes images; `copy` counts from 0, traced, and `keys` are the step's."""
        raise NotImplementedError


class Direction(NamedTuple):
    """From the gradients of an image to its steps: `make(*args)`, one for each image.

    Two of these are equal where they say the same, and then attacks compile once; optax
    makes functions, which are never equal.
    """

    make: Callable[..., optax.GradientTransformation] = optax.identity
    args: tuple[Any, ...] = ()

    def init(self, x: Images) -> optax.OptState:
        """The state before the first gradient."""
        return jax.vmap(self.make(*self.args).init)(x)

    def update(self, grad: Any, state: optax.OptState) -> tuple[Any, optax.OptState]:
        """Takes in gradients; returns the directions, and the new state."""
        return jax.vmap(self.make(*self.args).update)(grad, state)


GRADIENT = Direction()


def momentum(decay: float) -> optax.GradientTransformation:
    """Sums gradients over their means, those of the step before times `decay`."""
    return optax.chain(optax.stateless(_over_mean), optax.trace(decay))


def _over_mean(grad: Any, params: Any) -> Any:
    """Divides a gradient by its mean absolute value; zero stays zero."""
    grad = threat.tamed(grad)
    # By the largest first: the mean of huge gradients would overflow.
    grad = threat.safe_divide(grad, jnp.max(jnp.abs(grad)))
    return threat.safe_divide(grad, jnp.mean(jnp.abs(grad)))


def adam(floor: float = 1e-8) -> optax.GradientTransformation:
    """Adam's directions (Kingma and Ba 2015, algorithm 1), of length 1 per value."""
    return optax.chain(optax.stateless(_finite), optax.scale_by_adam(eps=floor))


def _finite(grad: Any, params: Any) -> Any:
    """A gradient whose squares are finite."""
    return threat.tamed(grad, squared=True)


ADAM = Direction(adam)


def steepest(problem: Problem, x: Images, direction: Images, length: Scalar) -> Images:
    """The step of this length in the norm that a linear loss rises most along."""
    return threat.steepest_step(
        x, direction, step_size=length, norm=problem.norm, bounds=problem.bounds
    )


def straight(problem: Problem, x: Images, direction: Images, length: Scalar) -> Images:
    """A multiple of the direction, as optimisers make it (Adam)."""
    return x + threat.per_row(length, x) * direction


class Kept(NamedTuple):
    """The best point so far, its loss, and whether it is misclassified."""

    x: Images
    value: PerExample
    fooled: jax.Array


class Carry(NamedTuple):
    """State between two steps; None where an attack does not need the part."""

    x: Images
    direction_state: Any
    kept: Kept | None
    direction: Images | None
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Ascent(Method):
    """An attack of the family. Its functions are of modules, so that equal is equal.

    Attributes:
      direction: of steps, from gradients.
      rule: of a step along it.
      view: of the images whose gradient is taken.
      keep_best: return the best point by loss, not the last; None: in L1 (`finish`).
    """

    ball = True
    # The first misclassified point is the best, whatever its loss.
    settles: ClassVar[bool] = False
    # No gradient is asked for, so none that is 0 is told.
    estimated: ClassVar[bool] = False

    direction: Direction = GRADIENT
    rule: Rule = steepest
    view: View | None = None
    keep_best: bool | None = None

    @property
    def needs_key(self) -> str | None:
        """For a start, or images, drawn at random."""
        return super().needs_key or (self.view.needs_key if self.view else None)

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Makes the first point: the clean image or a draw from the ball."""
        x = problem.x
        if self.random_start:
            assert keys is not None
            ball = {"eps": problem.eps, "norm": problem.norm, "bounds": problem.bounds}
            x = _quantized(problem, threat.sample(x, key=keys, **ball))
        row = jnp.zeros_like(x, shape=x.shape[:1])
        keeps = problem.norm == "l1" if self.keep_best is None else self.keep_best
        return Carry(
            x,
            self.direction.init(x),
            Kept(x, row - jnp.inf, row != 0) if keeps else None,
            jnp.zeros_like(x) if keeps else None,
            Health.first(problem, self.steps, keys, x),
        )

    def look(
        self, problem: Problem, keys: Keys, i: Count, x: Images
    ) -> tuple[Images, Evaluated | Judged]:
        """The gradient at the point of step i, and the loss there."""
        view, row_keys = self.view, model_keys(problem, keys, i)
        if view is None:
            return gradient(problem, x, row_keys)
        drawn = fold(keys, _INPUT_STREAM, i)

        def copy(c: Count) -> tuple[Images, Evaluated]:
            asked = problem.seen(lambda z: view(problem, z, drawn, c))
            return gradient(
                asked, x, row_keys if view.copies == 1 else fold(row_keys, c)
            )

        return mean_of(view.copies, copy)

    def ahead(self, problem: Problem, carry: Carry) -> Images:
        """The point whose gradient a step takes: where it stands."""
        return carry.x

    def learnt(
        self, problem: Problem, keys: Keys, i: Count, x: Images, grad: Images
    ) -> Any:
        """What the direction is made of, besides its state: the gradient."""
        return grad

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """One ascent step, back into the ball and the box."""
        grad, at = self.look(problem, keys, i, self.ahead(problem, carry))
        told = self.learnt(problem, keys, i, carry.x, grad)
        direction, state = self.direction.update(told, carry.direction_state)
        moved = self.rule(problem, carry.x, direction, problem.step_size)
        return Carry(
            _quantized(problem, problem.project(moved)),
            state,
            carry.kept and self._kept(carry.kept, carry.x, at),
            carry.kept and direction,
            watched(carry.health, grad, at.logits, i, self.estimated),
        )

    def finish(self, problem: Problem, keys: Keys, carry: Carry) -> Images:
        """Returns the last point, or the best one where the attack keeps it.

        In L1 a step is long in few coordinates, and the projection takes some of all
        of them back: the last point may be worse than one before, and steps need not
        reach the optimum even of a linear loss. So the best point is kept, and the
        vertex of ball and box that the last direction points to (that optimum) is
        tried as well.
        """
        kept, points = carry.kept, [carry.x]
        if kept is None or carry.direction is None:
            return carry.x
        if self.steps and self.rule is steepest:
            vertex = steepest(problem, problem.x, carry.direction, problem.eps)
            points.append(_quantized(problem, problem.project(vertex)))
        last_keys = model_keys(problem, keys, self.steps)
        for x in points:
            kept = self._kept(kept, x, evaluate(problem, x, last_keys))
        return kept.x

    def _kept(self, kept: Kept, x: Images, at: Evaluated | Judged) -> Kept:
        wins, fooled = at.value > kept.value, kept.fooled
        if self.settles:
            assert isinstance(at, Judged)
            wins, fooled = ~fooled & (at.fooled | wins), fooled | at.fooled
        x, value = choose(wins, (x, at.value), (kept.x, kept.value))
        return Kept(x, value, fooled)


def _quantized(problem: Problem, x_adv: Images) -> Images:
    """Moves points of ball and box to 8-bit levels that are in ball and box too.

    Linf: the nearest level within the ball. L2, L1: the next level towards `x`. Where
    no level qualifies (`x` is off the grid, eps is tiny) the clean value stays.
    """
    if not problem.quantize:
        return x_adv
    x, (low, high) = problem.x, problem.bounds
    eps = threat.per_row(problem.eps, x)
    width = high - low
    # A table, since XLA may turn a division by 255 into a multiplication.
    table = jnp.asarray(np.arange(_LEVELS + 1) / _LEVELS * width + low, x.dtype)

    def level(v: Images) -> Images:
        return (v - low) / width * _LEVELS

    if problem.norm == "linf":
        # Half of the slack that the contract of threat.project leaves to rounding.
        slack = 0.5e-6 * max(1.0, width) / width * _LEVELS
        first = jnp.ceil(level(jnp.maximum(x - eps, low)) - slack)
        last = jnp.floor(level(jnp.minimum(x + eps, high)) + slack)
        index = jnp.clip(jnp.round(level(x_adv)), first, last)
        allowed = first <= last
    else:
        index = jnp.where(x_adv > x, jnp.floor(level(x_adv)), jnp.ceil(level(x_adv)))
        allowed = x_adv != x
    index = jnp.clip(index, 0, _LEVELS).astype(jnp.int32)
    value = jnp.take(table, index)
    if problem.norm != "linf":
        between = jnp.where(x_adv > x, value > x, value < x)
        allowed &= between & (jnp.abs(value - x) <= jnp.abs(x_adv - x))
    # A radius of 0, as in masks, is to change nothing, not even the last digit.
    return jnp.where(allowed & (eps > 0), value, x)
