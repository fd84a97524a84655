"""What every iterated attack is to the code that runs it: start, step, finish.

`run` repeats an attack over restarts (or targets) and keeps the worst result per
example; `_eager` compiles the same parts and may step them from the host.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust._checks import NORMS
from jaxrobust._shards import varied_alike
from jaxrobust.array_types import Images, Logits, Norm, PerExample
from jaxrobust.attacks._objective import (
    Judged,
    Keys,
    OnInput,
    Problem,
    call_model,
    evaluate,
    fold,
)

Count = int | jax.Array

# Streams of a row's key; the key itself draws the random start.
_MODEL_STREAM = 0x6D6F64
_SCORE_STREAM = 0x73636F


class Health(NamedTuple):
    """What an eager call warns about, per example; None unless `problem.watch`."""

    finite: jax.Array  # logits at the first point of the first restart
    probabilities: jax.Array  # likewise: the logits look like probabilities
    zero_gradient: jax.Array  # or NaN, at every step of every restart
    not_finite: jax.Array  # logits at any point that was looked at

    @classmethod
    def first(
        cls, problem: Problem, steps: int, keys: Keys, x: Images
    ) -> "Health | None":
        """Before the first step; without steps, that of the logits at `x`."""
        if steps and problem.watch:
            rows = jnp.ones(x.shape[:1], bool)
            return cls(rows, ~rows, rows, ~rows)
        if not problem.watch or isinstance(problem.loss, OnInput):
            return None
        return cls.of(problem, call_model(problem, x, model_keys(problem, keys, 0)))

    @classmethod
    def of(cls, problem: Problem, logits: Logits) -> "Health | None":
        """That of an attack without gradients, from the logits at its first point."""
        if not problem.watch:
            return None
        finite, probabilities = _look(logits)
        return cls(finite, probabilities, jnp.zeros_like(finite), ~finite)

    def saw(self, logits: Logits) -> "Health":
        """Adds the logits at another point."""
        return self._replace(not_finite=self.not_finite | ~_look(logits)[0])

    def flat(self, rows: jax.Array, i: Count) -> "Health":
        """Adds on which rows the scores did not change at step i."""
        before = self.zero_gradient | (jnp.asarray(i) == 0)
        return self._replace(zero_gradient=before & rows)


def watched(
    health: Health | None,
    grad: Images,
    logits: Logits | None,
    i: Count,
    arrived: jax.Array | bool = False,
) -> Health | None:
    """Health after step i with this gradient at these logits; NaN moves nothing.

    Rows that have `arrived` may stand where no gradient is.
    """
    if health is None:
        return None
    zero = jnp.all((grad == 0) | jnp.isnan(grad), axis=tuple(range(1, grad.ndim)))
    zero &= ~jnp.asarray(arrived)
    health = health._replace(zero_gradient=health.zero_gradient & zero)
    if logits is None:
        return health
    health = health.saw(logits)
    found = Health(*_look(logits), *health[2:])
    return choose(jnp.asarray(i) == 0, found, health)


def _look(logits: Logits) -> tuple[jax.Array, jax.Array]:
    """Which rows are finite, and which look like probabilities."""
    return jnp.all(jnp.isfinite(logits), axis=1), losses.are_probabilities(logits)


class Best(NamedTuple):
    """The best restart so far, per example."""

    x: Images
    value: PerExample
    fooled: jax.Array
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Method:
    """An iterated attack without its arrays; equal ones compile to one program.

    A subclass gives `start`, `step` and `finish`. What lies between them, the carry,
    is a NamedTuple of arrays with a field `health`. Rows never mix. `keys` are those of
    the restart, which most attacks need alone; the step `i` and the run `r` are traced,
    and may be one number per row.
    """

    # Whether it stays in the ball of eps, instead of making the perturbation small.
    # Only then does it take radii per channel and pixel.
    ball: ClassVar[bool] = False
    # What draws at random, whatever the fields are.
    random: ClassVar[str | None] = None
    # Those that it has.
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    # What its caller calls the length of a step.
    length: ClassVar[str] = "step_size"

    steps: int
    restarts: int = 1
    random_start: bool = False

    @property
    def needs_key(self) -> str | None:
        """Why the attack itself draws randomness, or None."""
        return self.random or ("a random start" if self.random_start else None)

    def for_classes(self, classes: int) -> Self:
        """The attack on a model of so many classes."""
        return self

    def runs(self) -> int:
        """How often it is run: the restarts, times the targets where there are."""
        return self.restarts

    def start(self, problem: Problem, keys: Keys, r: Count) -> Any:
        """Makes the first carry of run r."""
        raise NotImplementedError

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Any) -> Any:
        """Makes step i."""
        raise NotImplementedError

    def finish(self, problem: Problem, keys: Keys, carry: Any) -> Images:
        """Returns the result of a run."""
        raise NotImplementedError

    def done(self, carry: Any) -> jax.Array | None:
        """Which rows have nothing left to do, `[B]`; None where there is no telling.

        Once all have, the steps that remain are not made.
        """
        return None

    @property
    def points(self) -> int:
        """Steps after which `hit` has seen every point of a run."""
        return self.steps

    def hit(self, problem: Problem, i: Count, carry: Any) -> tuple[jax.Array, Images]:
        """After step i: which rows have succeeded, and the images with which."""
        raise NotImplementedError

    def missed(self, carry: Any, rows: jax.Array) -> Any:
        """Takes back the success of `rows`, `[B]`, so that they look for another."""
        return carry._replace(fooled=carry.fooled & ~rows)

    def strongest(self, problem: Problem, carry: Any) -> Images:
        """The images in ball and box that come nearest to success."""
        return self.finish(problem, None, carry)

    def value(self, problem: Problem, x: Images, at: Judged) -> PerExample:
        """By what runs of equal success are compared: higher is better."""
        return at.value


def run(
    problem: Problem, method: Method, keys: Keys, *, unroll: int | bool = 1
) -> tuple[Images, Health | None]:
    """Makes all runs and returns the per-example worst, and health."""

    def once(row_keys: Keys, r: Count) -> Any:
        return repeat(
            method.steps,
            lambda i, carry: method.step(problem, row_keys, i, carry),
            method.start(problem, row_keys, r),
            unroll,
            method.done,
        )

    first = once(keys, 0)
    if method.runs() == 1:
        return method.finish(problem, keys, first), first.health

    def another(r: jax.Array, best: Best) -> Best:
        r = r + 1
        carry = once(restart_keys(keys, r), r)
        return merge(best, score(problem, method, keys, r, carry))

    best = score(problem, method, keys, 0, first)
    outer = True if unroll is True else 1
    best = repeat(method.runs() - 1, another, best, outer)
    return best.x, best.health


def score(problem: Problem, method: Method, keys: Keys, r: Count, carry: Any) -> Best:
    """Ends run r and evaluates its result, with one randomness for all runs."""
    x = method.finish(problem, restart_keys(keys, r), carry)
    at = evaluate(problem, x, fold(keys, _SCORE_STREAM) if problem.stochastic else None)
    value = method.value(problem, x, at)
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    return Best(x, value, at.fooled, carry.health)


def merge(best: Best, new: Best) -> Best:
    """Keeps, per example, a fooled point over one that is not, then the higher."""
    higher = (new.fooled == best.fooled) & (new.value > best.value)
    wins = (new.fooled & ~best.fooled) | higher
    health = None
    if best.health is not None and new.health is not None:
        health = best.health._replace(
            zero_gradient=best.health.zero_gradient & new.health.zero_gradient,
            not_finite=best.health.not_finite | new.health.not_finite,
        )
    return choose(wins, new._replace(health=health), best._replace(health=health))


def restart_keys(keys: Keys, r: Count) -> Keys:
    """Keys of restart r: the first one uses them as they are."""
    if keys is None or (isinstance(r, int) and r == 0):
        return keys
    return jnp.where(jnp.asarray(r) == 0, keys, fold(keys, r))


def repeat(
    times: int,
    body: Callable[[jax.Array, Any], Any],
    init: Any,
    unroll: int | bool,
    done: Callable[[Any], jax.Array | None] = lambda _: None,
) -> Any:
    """`fori_loop` from 0, or the steps written out where `unroll` is True.

    Ends early once `done` holds for all rows.
    """
    if unroll is True or times <= 1:
        for i in range(times):
            init = body(jnp.int32(i), init)
        return init
    init = varied_alike(init)

    def alike(i: jax.Array, carry: Any) -> Any:
        return varied_alike(body(i, carry))

    if done(init) is None:
        return jax.lax.fori_loop(0, times, alike, init, unroll=int(unroll))

    def go_on(state: tuple[jax.Array, Any]) -> jax.Array:
        rows = done(state[1])
        assert rows is not None
        return (state[0] < times) & ~jnp.all(rows)

    def one(state: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        return state[0] + 1, alike(*state)

    return jax.lax.while_loop(go_on, one, (jnp.int32(0), init))[1]


def model_keys(problem: Problem, keys: Keys, i: Count) -> Keys:
    """Keys of a stochastic model's randomness in step i."""
    return fold(keys, _MODEL_STREAM, i) if problem.stochastic else None


def like(rows: jax.Array, x: Images) -> jax.Array:
    """Shapes one value, or one per row, so that it broadcasts against images."""
    return rows.reshape(rows.shape + (1,) * (x.ndim - 1)) if rows.ndim else rows


def choose(rows: jax.Array, new: Any, old: Any) -> Any:
    """Takes `new` where `rows`, bool `[B]`, else `old`: arrays, or trees of them."""
    return jax.tree.map(lambda a, b: jnp.where(like(rows, a), a, b), new, old)
