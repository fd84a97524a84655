"""Carlini & Wagner's L2 attack: the smallest perturbation by gradient descent."""

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
from jaxrobust.attacks import _adam, _checks, _nearest, _tanh_space
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import (
    Count,
    Health,
    Method,
    first_health,
    like,
    model_keys,
    watch_step,
)
from jaxrobust.attacks._nearest import Nearest
from jaxrobust.attacks._objective import Problem, evaluate, gradient
from jaxrobust.attacks._options import ModelOptions, shares

# What the weight of the logits is multiplied by until it is found to be enough.
_GROWTH = 10


class Carry(NamedTuple):
    """State between two steps.

    `const` is c of the binary step, between the largest that failed and the least that
    was enough; `hit` tells whether it has been enough in this binary step.
    """

    w: Images
    moments: _adam.Moments
    const: PerExample
    failed: PerExample
    enough: PerExample
    hit: jax.Array
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class CarliniL2(Method):
    """The attack without its arrays; its steps are those of all binary steps."""

    descent: int = 1000
    lr: float = 0.01
    kappa: float = 0.0
    initial_const: float = 1e-3

    def check(self) -> None:
        """Raises for a number out of range."""
        check_descent(self.lr, self.kappa, self.initial_const)

    def start(
        self, problem: Problem, keys: Key | None, r: Count, *, watch: bool = False
    ) -> Carry:
        """Starts at the image."""
        del r  # one run
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        assert at.fooled is not None
        nearest = _nearest.of_images(problem, at.fooled & (at.value >= self.kappa))
        w = _tanh_space.from_images(x, problem.bounds)
        zero = jnp.zeros(x.shape[:1], x.dtype)
        return Carry(
            w,
            _adam.at_rest(w),
            zero + self.initial_const,
            zero,
            zero + jnp.inf,
            jnp.zeros(x.shape[:1], bool),
            nearest,
            first_health(problem, self.steps, keys, x) if watch else None,
        )

    def step(self, problem: Problem, keys: Key | None, i: Count, carry: Carry) -> Carry:
        """Makes a step of Adam, the first of a binary step with a new constant."""
        count = jnp.broadcast_to(jnp.asarray(i) % self.descent, carry.hit.shape)
        carry = _at_binary_step(problem, (count == 0) & (jnp.asarray(i) > 0), carry)
        x, slope = _tanh_space.to_images(carry.w, problem.bounds)
        grad, at = gradient(problem, x, model_keys(problem, keys, i), judge=True)
        health = carry.health
        if health is not None:
            health = watch_step(health, grad, at, i)
        assert at.fooled is not None
        won = at.fooled & (at.value >= self.kappa)
        pull = like(jnp.where(won, 0, carry.const), x) * jnp.nan_to_num(grad)
        w, moments = _tanh_space.descend(
            carry.w,
            (2 * (x - problem.x) - pull) * slope,
            carry.moments,
            count,
            self.lr,
        )
        return carry._replace(
            w=w,
            moments=moments,
            hit=carry.hit | won,
            nearest=_nearest.nearer(problem, carry.nearest, x, won),
            health=health,
        )

    def finish(self, problem: Problem, keys: Key | None, carry: Carry) -> Images:
        """Returns the nearest misclassified point within eps, else the image."""
        del keys
        return _nearest.within(problem, carry.nearest)


def check_descent(lr: float, kappa: float, initial_const: float) -> None:
    """Checks what the two attacks of Carlini & Wagner share."""
    _checks.check_ranges(lr=lr, kappa=kappa, initial_const=initial_const)


def _at_binary_step(problem: Problem, begins: jax.Array, carry: Carry) -> Carry:
    """Where a binary step begins, bisects the constant and goes back to the image."""
    const, hit = carry.const, carry.hit
    enough = jnp.where(hit, jnp.minimum(carry.enough, const), carry.enough)
    failed = jnp.where(hit, carry.failed, jnp.maximum(carry.failed, const))
    between = (failed + jnp.where(jnp.isinf(enough), 0, enough)) / 2
    next_const = jnp.where(jnp.isinf(enough), const * _GROWTH, between)
    image = _tanh_space.from_images(problem.x, problem.bounds)
    return carry._replace(
        w=jnp.where(like(begins, image), image, carry.w),
        moments=_adam.where(begins, _adam.at_rest(image), carry.moments),
        const=jnp.where(begins, next_const, const),
        failed=jnp.where(begins, failed, carry.failed),
        enough=jnp.where(begins, enough, carry.enough),
        hit=hit & ~begins,
    )


@shares(ModelOptions)
def cw_l2(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar | None = None,
    binary_steps: int = 9,
    steps: int = 1000,
    lr: float = 0.01,
    kappa: float = 0.0,
    initial_const: float = 1e-3,
    norm: Norm = "l2",
    targeted: bool = False,
    unroll: int | bool | None = None,
    **options: Unpack[ModelOptions],
) -> Images:
    """Carlini & Wagner's L2 attack (2017, section VI.A).

    Minimises |x' - x|^2 + c max(-m(x'), -kappa) with Adam, where m is the margin by
    which x' is misclassified (max_{j != y} z_j - z_y; z_y - max_{j != y} z_j where
    targeted), over w with x' = (tanh(w) + 1) / 2 scaled to the box. Each example has
    its own c: ten times more until it is enough, then bisected between the largest
    that failed and the least that was enough; each of these binary steps starts at the
    image with Adam at rest. Nothing stops early. Keeps the nearest point that is
    misclassified by kappa. Uses no randomness.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: labels `[B]`; the target classes where `targeted`. An image that is
        misclassified already (by kappa) is returned as it is.
      key: one key (row i uses fold_in(key, i)) or one per example; needed with a
        stochastic model.
      eps: radius up to which a perturbation counts; None: any. May be traced.
      binary_steps: constants c tried per example, at least 1; static.
      steps: steps of Adam per constant, at least 0, one gradient each; static.
      lr: Adam's learning rate, in units of w.
      kappa: margin, in logits, by which a point must be misclassified.
      initial_const: the first c, above 0.
      norm: 'l2'; `cw_linf` has the other.
      targeted: make the model predict `y` instead.
      unroll: how the loop is written out; None chooses.
      **options: shared by all attacks.

    Returns:
      Shape and dtype of `x`, in the box: the nearest such point found where it is
      within `eps`, else the image. No gradient flows.

    Raises:
      ValueError: for a value out of range or another norm, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Carlini & Wagner, Towards evaluating the robustness of neural networks, IEEE S&P
      2017, arXiv 1608.04644, sections V and VI.A (f_6 on logits); the schedule of c is
      that of their code.
    """
    threat.check_norm(norm)
    if norm != "l2":
        raise ValueError(f"cw_l2 has `norm` 'l2' alone, got {norm!r}; see cw_linf.")
    _checks.check_count("binary_steps", binary_steps, 1)
    _checks.check_count("steps", steps, 0)
    problem = Problem(
        logits_fn,
        x,
        y,
        jnp.inf if eps is None else eps,
        0.0,
        norm=norm,
        loss="margin",
        targeted=targeted,
        **options,
    )
    method = CarliniL2(
        binary_steps * steps,
        descent=steps,
        lr=lr,
        kappa=kappa,
        initial_const=initial_const,
    )
    return iterate(problem, method, key, unroll)
