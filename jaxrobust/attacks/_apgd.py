"""APGD's iteration, for both the untargeted and the targeted attack."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust.array_types import Images, Labels, Logits, PerExample
from jaxrobust.attacks._apgd_steps import (
    Now,
    Pace,
    Ticks,
    check_pace,
    into,
    move,
    row_radius,
    schedule,
    start_pace,
    start_point,
)
from jaxrobust.attacks._method import Count, Health, Method, choose, model_keys, watched
from jaxrobust.attacks._objective import (
    Judged,
    Keys,
    Problem,
    evaluate,
    judged_gradient,
    succeeds,
)

# Stream of a stochastic model's randomness on the clean image.
_CLEAN_STEP = 0x636C6E


class Trace(NamedTuple):
    """What one run of APGD went through; point 0 is the start.

    Attributes:
      logits: `[points, B, K]`, with points = steps + 1 (steps + 3 with large_radius).
      losses: `[points, B]`, the loss that is ascended.
      step_sizes: `[points, B]`, of the step that follows; 0 at the last point. With
        radii per value that of the largest.
      x_best: `[B, H, W, C]`, the point of the highest loss.
      loss_best: `[B]`, its loss.
      x_best_adv: `[B, H, W, C]`, the last misclassified point, or the start.
      fooled: `[B]`, whether a point was misclassified.
    """

    logits: jax.Array
    losses: jax.Array
    step_sizes: jax.Array
    x_best: Images
    loss_best: PerExample
    x_best_adv: Images
    fooled: jax.Array


class Record(NamedTuple):
    """The part of a trace that grows with the steps."""

    logits: jax.Array
    losses: jax.Array
    step_sizes: jax.Array


class Carry(NamedTuple):
    """State between two steps, one value per row throughout."""

    x: Images  # to be evaluated next
    x_best: Images
    grad_best: Images
    loss_best: PerExample
    x_last: Images  # the last misclassified point, or the start
    fooled: jax.Array  # whether there was one
    settled: jax.Array  # misclassified without an attack: the image is its result
    target: Labels | None
    step_size: PerExample
    pace: Pace
    record: Record | None
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Apgd(Method):
    """APGD. `steps` counts the gradients; the last point needs none."""

    ball = True

    iterations: int = 100  # as the caller counts them
    rho: float = 0.75
    targets: int = 0  # logit ranks to move to; 0: untargeted
    large_radius: bool = False
    best_loss: bool = False
    trace: bool = False

    def for_classes(self, classes: int) -> "Apgd":
        """At most as many targets as there are other classes."""
        return dataclasses.replace(self, targets=min(self.targets, classes - 1))

    def runs(self) -> int:
        """Restarts for each target."""
        return self.restarts * max(self.targets, 1)

    def ticks(self, problem: Problem) -> Ticks:
        """What happens at each point."""
        return schedule(
            self.iterations, problem.norm, self.rho, large_radius=self.large_radius
        )

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Makes the first point, and looks at the clean image."""
        clean = problem.clean
        if clean is None:
            row_keys = model_keys(problem, keys, _CLEAN_STEP)
            clean = evaluate(problem, problem.x, row_keys).logits
        eps = jnp.asarray(problem.eps, problem.x.dtype)
        if self.large_radius:
            eps = eps * 3
        x, given = self._first_point(problem, keys, r, eps)
        nothing = jnp.zeros_like(x, shape=x.shape[:1])
        record = None
        if self.trace:
            shapes = clean.shape, nothing.shape, nothing.shape
            points = self.steps + 1
            record = Record(*(jnp.zeros((points, *s), x.dtype) for s in shapes))
        step_size = (1 if problem.norm == "l1" else 2) * row_radius(eps) + nothing
        return Carry(
            x,
            x_best=x,
            grad_best=jnp.zeros_like(x),
            loss_best=nothing - jnp.inf,
            x_last=x,
            fooled=nothing != 0,
            settled=succeeds(problem, clean),
            target=self._target(clean, r),
            step_size=step_size,
            pace=start_pace(problem, x, given=given),
            record=record,
            health=Health.first(problem, self.steps, keys, x),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Evaluates the point, decides about the step, makes the next point."""
        now = Now.at(self.ticks(problem), i, problem)
        ascended = _ascended(problem, carry.target)
        x = carry.x
        grad, at = judged_gradient(ascended, x, model_keys(problem, keys, i))
        grad_best = choose(at.value > carry.loss_best, grad, carry.grad_best)
        carry = _seen(carry._replace(health=_watched(carry, grad, at, i)), at)
        pace, step_size, back = check_pace(
            problem, carry.pace, now, carry.step_size, carry.x_best, at.value,
            carry.loss_best,
        )  # fmt: skip
        x, grad = choose(back, (carry.x_best, grad_best), (x, grad))
        moved, pace = move(problem, pace, now, x, grad, step_size)
        carry = carry._replace(
            grad_best=grad_best,
            step_size=step_size,
            pace=pace,
            record=_recorded(carry.record, i, at, step_size),
        )
        if self.large_radius:
            return _next_phase(problem, now, carry, moved)
        return carry._replace(x=into(problem, moved, now.eps))

    def finish(self, problem: Problem, keys: Keys, carry: Carry) -> Any:
        """Returns the last misclassified point, or the image; the trace as well."""
        ascended = _ascended(problem, carry.target)
        at = evaluate(ascended, carry.x, model_keys(problem, keys, self.steps))
        carry = _seen(carry, at)
        if self.best_loss:
            x = carry.x_best
        else:
            x = choose(carry.fooled & ~carry.settled, carry.x_last, problem.x)
        none = jnp.zeros_like(carry.step_size)
        record = _recorded(carry.record, self.steps, at, none)
        if record is None:
            return x
        best = carry.x_best, carry.loss_best, carry.x_last, carry.fooled
        return x, Trace(*record, *best)

    @property
    def points(self) -> int:
        """The last point is evaluated by a step too."""
        return self.steps + 1

    def hit(self, problem: Problem, i: Count, carry: Carry) -> tuple[jax.Array, Images]:
        """Points of a phase with a larger radius do not count."""
        if not self.large_radius:
            return carry.fooled, carry.x_last
        radius = np.append(self.ticks(problem).radius, np.float32(1))
        return carry.fooled & (jnp.asarray(radius)[i] == 1), carry.x_last

    def missed(self, carry: Carry, rows: jax.Array) -> Carry:
        """The next misclassified point counts."""
        return carry._replace(fooled=carry.fooled & ~rows)

    def strongest(self, problem: Problem, carry: Carry) -> Images:
        """The point of the highest loss."""
        del problem
        return carry.x_best

    def value(self, problem: Problem, x: Images, at: Judged) -> PerExample:
        """The first run that fools counts, unless the highest loss is asked for."""
        del problem, x
        return at.value if self.best_loss else jnp.zeros_like(at.value)

    def _first_point(
        self, problem: Problem, keys: Keys, r: Count, eps: jax.Array
    ) -> tuple[Images, jax.Array | bool]:
        """The start of run r, and whether it says something about sparsity."""
        given = drawn = None
        if problem.x_init is not None:
            finite = jnp.isfinite(problem.x_init)
            given = into(problem, jnp.where(finite, problem.x_init, problem.x), eps)
        if self.random_start:
            assert keys is not None
            drawn = start_point(problem, keys, eps)
        if given is None or drawn is None:
            x = drawn if given is None else given
            assert x is not None
            return x, given is not None or self.large_radius
        own = jnp.asarray(r) % self.restarts == 0
        return choose(own, given, drawn), own | self.large_radius

    def _target(self, clean: Logits, r: Count) -> Labels | None:
        """The class of run r: the ranks after the first, best first."""
        if not self.targets:
            return None
        _, ranked = jax.lax.top_k(clean, self.targets + 1)
        place = jnp.broadcast_to(jnp.asarray(r) // self.restarts + 1, clean.shape[:1])
        return jnp.take_along_axis(ranked, place[:, None], axis=1)[:, 0]


def _ascended(problem: Problem, target: Labels | None) -> Problem:
    """The problem with the targeted loss, where there is a target."""
    if target is None:
        return problem

    def loss(logits: Logits, y: Labels) -> PerExample:
        if logits.shape[1] >= 4:
            return losses.dlr_targeted(logits, y, target)
        rows = jnp.stack([target, y], axis=1)
        gained, lost = jnp.take_along_axis(logits, rows, axis=1).T
        return gained - lost

    return dataclasses.replace(problem, loss=loss)


def _seen(carry: Carry, at: Judged) -> Carry:
    """Takes the evaluation of the point in: the best so far, the last misclassified."""
    x, better = carry.x, at.value > carry.loss_best
    return carry._replace(
        x_best=choose(better, x, carry.x_best),
        loss_best=jnp.where(better, at.value, carry.loss_best),
        x_last=choose(at.fooled, x, carry.x_last),
        fooled=carry.fooled | at.fooled,
    )


def _watched(carry: Carry, grad: Images, at: Judged, i: Count) -> Health | None:
    """Health after a step; a row that is fooled may stand where no gradient is."""
    health = watched(carry.health, grad, at.logits, i)
    if health is None:
        return None
    stuck = health.zero_gradient & ~(carry.settled | carry.fooled)
    return health._replace(zero_gradient=stuck)


def _next_phase(problem: Problem, now: Now, carry: Carry, moved: Images) -> Carry:
    """Goes to the next point; where a phase ends, that is its best one, afresh."""
    last = now.last | jnp.zeros_like(carry.fooled)
    x = into(problem, choose(last, carry.x_best, moved), now.next_eps)
    return carry._replace(
        x=x,
        x_best=choose(last, x, carry.x_best),
        loss_best=jnp.where(last, -jnp.inf, carry.loss_best),
        x_last=choose(last, x, carry.x_last),
        fooled=carry.fooled & ~last,
        step_size=jnp.where(last, now.next_eps, carry.step_size),
        pace=choose(last, start_pace(problem, x, given=True), carry.pace),
    )


def _recorded(
    record: Record | None, i: Count, at: Judged, step_size: PerExample
) -> Record | None:
    if record is None:
        return None
    new = at.logits, at.value, step_size
    return Record(*(old.at[i].set(v) for old, v in zip(record, new, strict=True)))
