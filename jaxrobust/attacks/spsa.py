"""SPSA: ascent along a gradient that is estimated from random directions."""

import dataclasses
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import (
    Images,
    Key,
    Labels,
    LogitsFn,
    Norm,
    PerExample,
    Scalar,
)
from jaxrobust.attacks import _checks
from jaxrobust.attacks._adam import Moments, adam, at_rest
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import (
    Count,
    Health,
    Method,
    like,
    look,
    model_keys,
    repeat,
)
from jaxrobust.attacks._objective import Loss, Problem, evaluate, fold
from jaxrobust.attacks._options import ModelOptions, shares
from jaxrobust.attacks._zeroth_order import slope

_DIRECTION_STREAM = 0x737073


class Carry(NamedTuple):
    """The iterate with Adam's state, and the best point so far with its value."""

    x: Images
    moments: Moments
    best: Images
    value: PerExample
    fooled: jax.Array
    health: Health | None


@dataclasses.dataclass(frozen=True)
class SPSA(Method):
    """SPSA without its arrays; the length of a step is the problem's."""

    ball = True

    delta: float = 0.01
    samples: int = 128

    @property
    def needs_key(self) -> str | None:
        """Its directions are random."""
        return "SPSA"

    def check(self) -> None:
        """Raises for a number out of range."""
        _checks.check_count("samples", self.samples, 2)
        if self.samples % 2:
            raise ValueError(
                "`samples` are taken in pairs, one on either side of the image: it "
                f"must be even, got {self.samples}."
            )
        _checks.check_ranges(delta=self.delta)

    def start(
        self, problem: Problem, keys: Key | None, r: Count, *, watch: bool = False
    ) -> Carry:
        """Starts at the image."""
        del r  # the keys are its own
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        assert at.logits is not None
        assert at.fooled is not None
        none = jnp.zeros(x.shape[:1], bool)
        health = Health(*look(at.logits), none) if watch else None
        value = jnp.where(jnp.isnan(at.value), -jnp.inf, at.value)
        return Carry(x, at_rest(x), x, value, at.fooled, health)

    def step(self, problem: Problem, keys: Key | None, i: Count, carry: Carry) -> Carry:
        """One step of Adam, back into ball and box; keeps the point if it is better."""
        grad = self.gradient(problem, keys, i, carry.x)
        count = jnp.asarray(i, grad.dtype) + 1
        means, direction = adam(carry.moments, grad, like(count, grad))
        x = threat.project(
            carry.x + threat.per_row(problem.step_size, grad) * direction,
            problem.x,
            eps=problem.eps,
            norm=problem.norm,
            bounds=problem.bounds,
        )
        at = evaluate(problem, x, model_keys(problem, keys, i))
        assert at.fooled is not None
        better = ~carry.fooled & (at.fooled | (at.value > carry.value))
        return Carry(
            x,
            means,
            jnp.where(like(better, x), x, carry.best),
            jnp.where(better, at.value, carry.value),
            carry.fooled | at.fooled,
            carry.health,
        )

    def gradient(
        self, problem: Problem, keys: Key | None, i: Count, x: Images
    ) -> Images:
        """Estimates the objective's gradient at `x` from step i's directions.

        One pair of points per turn of a loop, so that memory is that of one batch.
        """
        draw_keys = fold(fold(keys, _DIRECTION_STREAM), i)
        row_keys = model_keys(problem, keys, i)

        def add(pair: jax.Array, total: Images) -> Images:
            pair_keys = fold(draw_keys, pair)
            assert pair_keys is not None
            signs = jax.vmap(lambda k: jax.random.rademacher(k, x.shape[1:], x.dtype))(
                pair_keys
            )
            rise = slope(
                problem, x, self.delta * signs, self.delta, fold(row_keys, pair)
            )
            return total + like(rise, x) * signs  # 1 / sign is the sign

        pairs = self.samples // 2
        return repeat(pairs, add, jnp.zeros_like(x), 1) / pairs

    def finish(self, problem: Problem, keys: Key | None, carry: Carry) -> Images:
        """Returns the best point."""
        del problem, keys
        return carry.best


@shares(ModelOptions)
def spsa(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key,
    eps: Scalar,
    steps: int = 100,
    lr: Scalar = 0.01,
    delta: float = 0.01,
    samples: int = 128,
    norm: Norm = "linf",
    loss: Loss = "margin",
    targeted: bool = False,
    restarts: int = 1,
    unroll: int | bool | None = None,
    **options: Unpack[ModelOptions],
) -> Images:
    """SPSA: projected Adam on a gradient estimated from scores (Uesato et al. 2018).

    Each step looks at the loss at `x + delta v` and `x - delta v` for random sign
    vectors v, and takes the mean of the differences along them for the gradient; the
    points may lie outside the box by `delta`. A row that is misclassified stays as it
    is. Other than in the paper the best iterate is returned, not the last, at a model
    call more per step. The paper has Linf alone. The two points
    of a pair see one randomness of the model.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
        Only called, never differentiated: `steps * (samples + 1) + 1` times.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: labels `[B]`; the target classes where `targeted`.
      key: one key (row i uses fold_in(key, i)) or one per example.
      eps: radius of the ball in units of the images, of the shapes that `pgd` takes;
        may be traced.
      steps: at least 0; static.
      lr: Adam's learning rate, in units of the images; may be traced.
      delta: distance of the samples per pixel, above 0.
      samples: model calls per estimate, even: half as many directions; static.
      norm: 'linf', 'l2' or 'l1'.
      loss: 'margin', 'ce', 'dlr', a function (logits, y) -> `[B]`, or
        `attacks.on_input(fn)` with fn(x, y) -> `[B]`; ascended.
      targeted: descend the loss towards `y` instead.
      restarts: keeps, per example, a misclassified point over one that is not, then
        the higher loss; restart r > 0 uses fold_in(key, r).
      unroll: how the loop over steps is written out; None chooses.
      **options: shared by all attacks.

    Returns:
      Shape and dtype of `x`, in ball and box: a misclassified point where one was
      found, else the iterate of the highest loss. No gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Uesato, O'Donoghue, van den Oord, Kohli: Adversarial risk and the dangers of
      evaluating against weak attacks, ICML 2018, arXiv 1802.05666, algorithm 1.
    """
    _checks.check_ranges(lr=lr)
    problem = Problem(
        logits_fn,
        x,
        y,
        eps,
        lr,
        norm=norm,
        loss=loss,
        targeted=targeted,
        **options,
    )
    method = SPSA(steps, restarts, delta=delta, samples=samples)
    return iterate(problem, method, key, unroll)
