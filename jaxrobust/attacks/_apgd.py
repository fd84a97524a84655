"""APGD's iteration, for both the untargeted and the targeted attack."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust.array_types import Images, Labels, Logits, PerExample
from jaxrobust.attacks import _apgd_steps as rules
from jaxrobust.attacks._fab_logits import nearest_wrong_class
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
    pace: rules.Pace
    record: tuple[jax.Array, ...] | None  # of a trace, what grows with the steps
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Apgd(Method):
    """APGD. `steps` counts the gradients, at all points but the last."""

    ball = True

    rho: float = 0.75
    targets: int = 0  # logit ranks to move to; 0: untargeted
    order: str = "logits"  # of the targets, or "boundaries": the nearest first
    large_radius: bool = False
    best_loss: bool = False
    trace: bool = False

    def for_classes(self, classes: int) -> "Apgd":
        """At most as many targets as there are other classes."""
        return dataclasses.replace(self, targets=min(self.targets, classes - 1))

    def runs(self) -> int:
        """Restarts for each target."""
        return self.restarts * max(self.targets, 1)

    def ticks(self, problem: Problem) -> rules.Ticks:
        """What happens at each point."""
        large = self.large_radius
        steps = self.steps - 2 * large  # two phases more, each with a start
        return rules.schedule(steps, problem.norm, self.rho, large_radius=large)

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Makes the first point, and looks at the clean image."""
        clean = problem.clean_logits(model_keys(problem, keys, _CLEAN_STEP))
        eps = jnp.asarray(problem.eps, problem.x.dtype)
        if self.large_radius:
            eps = eps * 3
        x, given = self._first_point(problem, keys, r, eps)
        nothing = jnp.zeros_like(x, shape=x.shape[:1])
        record = None
        if self.trace:
            shapes = clean.shape, nothing.shape, nothing.shape
            points = self.steps + 1
            record = tuple(jnp.zeros((points, *s), x.dtype) for s in shapes)
        step_size = (1 if problem.norm == "l1" else 2) * rules.row_radius(eps) + nothing
        return Carry(
            x,
            x_best=x,
            grad_best=jnp.zeros_like(x),
            loss_best=nothing - jnp.inf,
            x_last=x,
            fooled=nothing != 0,
            settled=succeeds(problem, clean),
            target=self._target(problem, clean, keys, r),
            step_size=step_size,
            pace=rules.start_pace(problem, x, given=given),
            record=record,
            health=Health.first(problem, self.steps, keys, x),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Evaluates the point, decides about the step, makes the next point."""
        now = rules.Now.at(self.ticks(problem), i, problem)
        ascended = _ascended(problem, carry.target)
        x = carry.x
        grad, at = judged_gradient(ascended, x, model_keys(problem, keys, i))
        grad_best = choose(at.value > carry.loss_best, grad, carry.grad_best)
        arrived = carry.settled | carry.fooled
        health = watched(carry.health, grad, at.logits, i, arrived)
        carry = _seen(carry._replace(health=health), at)
        pace, step_size, back = rules.check_pace(
            problem, carry.pace, now, carry.step_size, carry.x_best, at.value,
            carry.loss_best,
        )  # fmt: skip
        x, grad = choose(back, (carry.x_best, grad_best), (x, grad))
        moved, pace = rules.move(problem, pace, now, x, grad, step_size)
        carry = carry._replace(
            grad_best=grad_best,
            step_size=step_size,
            pace=pace,
            record=_recorded(carry.record, i, at, step_size),
        )
        if self.large_radius:
            return _next_phase(problem, now, carry, moved)
        return carry._replace(x=rules.into(problem, moved, now.eps))

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
        return x, Trace._make((*record, *best))

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

    def strongest(self, problem: Problem, carry: Carry) -> Images:
        """The point of the highest loss."""
        return carry.x_best

    def value(self, problem: Problem, x: Images, at: Judged) -> PerExample:
        """The first run that fools counts, unless the highest loss is asked for."""
        return at.value if self.best_loss else jnp.zeros_like(at.value)

    def _first_point(
        self, problem: Problem, keys: Keys, r: Count, eps: jax.Array
    ) -> tuple[Images, jax.Array | bool]:
        """The start of run r, and whether it says something about sparsity."""
        given = drawn = None
        if problem.x_init is not None:
            start = jnp.where(jnp.isfinite(problem.x_init), problem.x_init, problem.x)
            given = rules.into(problem, start, eps)
        if self.random_start:
            assert keys is not None
            drawn = rules.start_point(problem, keys, eps)
        if given is None or drawn is None:
            x = drawn if given is None else given
            assert x is not None
            return x, given is not None or self.large_radius
        own = jnp.asarray(r) % self.restarts == 0
        return choose(own, given, drawn), own | self.large_radius

    def _target(
        self, problem: Problem, clean: Logits, keys: Keys, r: Count
    ) -> Labels | None:
        """The class of run r: the ranks after the first, best first."""
        if not self.targets:
            return None
        place = jnp.broadcast_to(jnp.asarray(r) // self.restarts, clean.shape[:1])
        if self.order == "boundaries":
            row_keys = model_keys(problem, keys, _CLEAN_STEP)
            return nearest_wrong_class(problem, row_keys, place, self.targets)
        _, ranked = jax.lax.top_k(clean, self.targets + 1)
        return jnp.take_along_axis(ranked, place[:, None] + 1, axis=1)[:, 0]


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


def _next_phase(problem: Problem, now: rules.Now, carry: Carry, moved: Images) -> Carry:
    """Goes to the next point; where a phase ends, that is its best one, afresh."""
    last = now.last | jnp.zeros_like(carry.fooled)
    x = rules.into(problem, choose(last, carry.x_best, moved), now.next_eps)
    return carry._replace(
        x=x,
        x_best=choose(last, x, carry.x_best),
        loss_best=jnp.where(last, -jnp.inf, carry.loss_best),
        x_last=choose(last, x, carry.x_last),
        fooled=carry.fooled & ~last,
        step_size=jnp.where(last, now.next_eps, carry.step_size),
        pace=choose(last, rules.start_pace(problem, x, given=True), carry.pace),
    )


def _recorded(
    record: tuple[jax.Array, ...] | None, i: Count, at: Judged, step_size: PerExample
) -> tuple[jax.Array, ...] | None:
    if record is None:
        return None
    new = at.logits, at.value, step_size
    return tuple(old.at[i].set(v) for old, v in zip(record, new, strict=True))
