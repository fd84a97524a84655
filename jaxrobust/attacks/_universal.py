"""One perturbation for many images: ascent on draws of them, stepped from the host."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _checks as checks
from jaxrobust import losses, threat
from jaxrobust.array_types import Bounds, Images, Key, Labels, Logits, LogitsFn, Norm
from jaxrobust.attacks import programs
from jaxrobust.attacks._checks import check_images, frames_inside, need_key
from jaxrobust.attacks._eager import in_transformation
from jaxrobust.attacks._objective import (
    Loss,
    OnInput,
    RobustnessWarning,
    check_logits,
    check_loss,
    named,
)

# Of an image's loss, by default: of the margin where it is misclassified, of the
# cross-entropy the beta of Shafahi et al. 2020.
_LIMITS: Mapping[Any, float] = {"margin": 0.0, "ce": 9.0}
_LIMIT = checks.Range(0, 1e6)


class AddedBall(NamedTuple):
    """Where a perturbation `[1, ...]` may be, and its steps; numbers may be traced.

    Attributes:
      centre: of the ball, and the start.
      eps: its radius.
      bounds: of the perturbation.
      step_size: of a step.
    """

    centre: jax.Array
    eps: Any
    bounds: tuple[Any, Any]
    step_size: Any


class Many(NamedTuple):
    """Images, labels and model, all checked.

    Attributes:
      model: `(arrays, x) -> logits`.
      arrays: of the model.
      x: `[N, H, W, C]`, float32 at least.
      y: `[N]`.
      key: one, of all that is drawn.
    """

    model: Callable[..., Logits]
    arrays: Any
    x: Images
    y: Labels
    key: Key

    def logits(self, x: Images) -> Logits:
        """Calls the model."""
        return self.model(self.arrays, x)


class StepsSeen(NamedTuple):
    """What an eager call tells of; numbers of rows and of steps, over all steps."""

    rows: Any  # that were looked at
    unfit: Any  # whose logits were not finite
    probabilities: Any  # that look like some
    still: Any  # steps without a direction, though images were left to fool

    def __add__(self, other: Any) -> "StepsSeen":
        """Adds what another step saw."""
        return jax.tree.map(jnp.add, self, other)

    @classmethod
    def at(cls, logits: Logits, still: Any) -> "StepsSeen":
        """What the logits of a step say."""
        fit = jnp.all(jnp.isfinite(logits), axis=1)
        alike = losses.are_probabilities(logits)
        count = lambda rows: jnp.sum(rows, dtype=jnp.int32)  # noqa: E731
        return cls(jnp.int32(len(logits)), count(~fit), count(alike), count(still))


@dataclasses.dataclass(frozen=True)
class UniversalStep:
    """A step of a universal attack, without its arrays; equal ones compile once.

    Attributes:
      norm: of the ball.
      box: of the images.
    """

    norm: Norm
    box: Bounds

    @property
    def keeps(self) -> bool:
        """Whether what is compiled may be kept: no function of the caller is in it."""
        return True

    def step(
        self, now: Many, ball: AddedBall, i: jax.Array, value: jax.Array
    ) -> tuple[jax.Array, StepsSeen]:
        """Returns the perturbation after step i."""
        raise NotImplementedError


def check_added(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raises unless what goes on images is floating, of a shape, and finite."""
    checks.check_kind(value, jnp.floating, f"`{name}` must be a floating array {shape}")
    if value.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {value.shape}.")
    known = checks.concrete(value)
    if known is not None and not np.isfinite(known).all():
        raise ValueError(f"`{name}` has values that are not finite.")


class Posed(NamedTuple):
    """A universal attack's images and model, and how it is run."""

    problem: Many
    eager: bool
    keep: bool

    def run(self, rule: UniversalStep, ball: AddedBall, times: int) -> jax.Array:
        """Makes steps from the centre; eagerly it raises for logits that are none."""
        init = ball.centre
        if not self.eager or in_transformation(self.problem[1:], ball):
            step = lambda i, v: rule.step(self.problem, ball, i, v)[0]  # noqa: E731
            return jax.lax.stop_gradient(jax.lax.fori_loop(0, times, step, init))
        kept = self.keep and rule.keeps
        step = _step if kept else jax.jit(_of_arrays, static_argnums=(0, 1))
        total = StepsSeen(*map(jnp.int32, (0, 0, 0, 0)))
        model, *arrays = self.problem
        for i in range(times):
            init, seen = step(rule, model, arrays, ball, jnp.int32(i), init)
            if i == 0 and (unfit := int(seen.unfit)):
                raise ValueError(
                    f"The model's logits are not finite for {unfit} of "
                    f"{int(seen.rows)} images, so no attack on them means anything."
                )
            total += seen
        _warn(total, times)
        return init


def _of_arrays(
    rule: UniversalStep,
    model: Any,
    arrays: Any,
    ball: AddedBall,
    i: jax.Array,
    value: jax.Array,
) -> tuple[jax.Array, StepsSeen]:
    return rule.step(Many(model, *arrays), ball, i, value)


# A function of arrays alone: it keeps no weights alive.
_step = jax.jit(_of_arrays, static_argnums=(0, 1))


def _warn(total: StepsSeen, steps: int) -> None:
    """Warns about a perturbation that is weaker than it seems."""
    rows, unfit, probabilities, still = map(int, total)
    told = []
    if rows and probabilities == rows:
        told.append(
            "The model returns probabilities (every row is in [0, 1] and sums to 1), "
            "not logits: gradients vanish. Attack the logits instead."
        )
    if unfit:
        told.append(
            f"The model's logits were not finite for {unfit} of {rows} images that "
            "were looked at: they say nothing of where to go."
        )
    if still > steps / 2:
        told.append(
            f"At {still} of {steps} steps there was no gradient, though images were "
            "left that the perturbation does not fool: it may be far from the worst. "
            "Try loss='margin'."
        )
    for text in told:
        warnings.warn(text, RobustnessWarning, stacklevel=frames_inside())


def many(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    key: Key,
    bounds: Any,
    least: int,
    *,
    flat: bool = False,
) -> Posed:
    """Checks what a universal attack is given; the model's arrays become arguments.

    `least` are the images of a draw, or all where there are fewer; `flat` takes rows
    `[N, ...]` of any shape.
    """
    checks.check_function(logits_fn)
    checks.check_bounds(bounds)
    checks.check_images(x, flat=flat)
    check_images(x)
    checks.check_labels(y, len(x))
    need_key(key, "a universal attack")
    shape = getattr(key, "shape", ())
    checks.row_keys(key, shape[0] if shape else 1)
    if shape:
        raise ValueError(
            f"`key` must be one key for all images here, got shape {key.shape}."
        )
    least = min(least, len(x))
    eager = not in_transformation(x, y, key)
    if eager:
        checks.check_values(x, bounds)
    x = jnp.asarray(x).astype(threat.wide_dtype(x.dtype))
    like = jax.ShapeDtypeStruct((least, *x.shape[1:]), x.dtype)
    model = (programs.bind if eager else programs.capture)(logits_fn, like)
    out = model.out or jax.eval_shape(model.fn, model.arrays, like)
    check_logits(out, least)
    checks.check_classes(y, out.shape[1])
    labels = jnp.asarray(y, jnp.int32)
    problem = Many(model.fn, list(model.arrays), x, labels, key)
    return Posed(problem, eager, model.keep)


@dataclasses.dataclass(frozen=True)
class MeanAscent(UniversalStep):
    """Ascends the mean loss of draws of images.

    A subclass says how the perturbation is put on them.

    Attributes:
      loss: that is ascended.
      batch: images per draw.
      limit: of an image's loss, beyond which it counts no more; None is the loss's own.
      targeted: descend.
    """

    loss: Loss
    batch: int
    limit: float | None
    targeted: bool

    def __post_init__(self) -> None:
        """Refuses what cannot be, losses of images among it."""
        check_loss(self.loss)
        if isinstance(self.loss, OnInput):
            raise ValueError("`loss` must be of logits here: a name or fn(logits, y).")
        if not isinstance(self.targeted, bool):
            raise TypeError(f"`targeted` must be True or False, got {self.targeted!r}.")
        if self.limit not in (None, math.inf):
            checks.check_number("limit", self.limit, _LIMIT)

    @property
    def keeps(self) -> bool:
        """A loss of the caller may read what changes."""
        return isinstance(self.loss, str)

    def apply(self, x: Images, value: jax.Array, keys: Key) -> Images:
        """Puts a perturbation `[1, ...]` on images, with a key for each."""
        raise NotImplementedError

    def step(
        self, now: Many, ball: AddedBall, i: jax.Array, value: jax.Array
    ) -> tuple[jax.Array, StepsSeen]:
        """Goes along the steepest direction of the norm, and back into the ball."""
        pick, draw = jax.random.split(jax.random.fold_in(now.key, i))
        some = jax.random.choice(pick, len(now.x), (self.batch,), replace=False)
        x, y, keys = now.x[some], now.y[some], checks.row_keys(draw, self.batch)
        loss_fn: Any = named(self.loss)
        given = self.limit

        def mean(value: jax.Array) -> tuple[jax.Array, tuple[Logits, jax.Array]]:
            logits = now.logits(self.apply(x, value, keys))
            each = (1 - 2 * self.targeted) * loss_fn(losses.comparable(logits), y)
            limit = _LIMITS.get(self.loss, math.inf) if given is None else given
            left = each < limit
            each = jnp.where(left | jnp.isnan(each), each, limit)
            return jnp.mean(each), (logits, left)

        slope, (logits, left) = jax.grad(mean, has_aux=True)(value)
        still = jnp.all((slope == 0) | jnp.isnan(slope)) & jnp.any(left)
        where: dict[str, Any] = {"norm": self.norm, "bounds": ball.bounds}
        size = ball.step_size
        ahead = threat.steepest_step(value, slope, step_size=size, **where)
        ahead = threat.project(ahead, ball.centre, eps=ball.eps, **where)
        return ahead, StepsSeen.at(logits, still)
