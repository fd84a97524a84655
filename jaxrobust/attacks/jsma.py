"""The saliency map attack: pairs of values, few of them, moved as far as it takes."""

import dataclasses
import math
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust.array_types import (
    Images,
    Key,
    Labels,
    Logits,
    LogitsFn,
    Norm,
    Scalar,
)
from jaxrobust.attacks import _checks, _nearest
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._fab_logits import likely_wrong_class
from jaxrobust.attacks._method import (
    Count,
    Health,
    Method,
    first_health,
    model_keys,
    watch_step,
)
from jaxrobust.attacks._objective import Evaluated, Problem, mean_logits, succeeds
from jaxrobust.attacks._options import ModelOptions, shares
from jaxrobust.attacks._saliency_pairs import best_pair


class Carry(NamedTuple):
    """The iterate, the class that each row is moved to, and who moves no more."""

    x: Images
    target: Labels
    still: jax.Array
    health: Health | None


@dataclasses.dataclass(frozen=True)
class JSMA(Method):
    """The saliency map attack without its arrays: a step changes a pair."""

    theta: float = 1.0

    def check(self) -> None:
        """Raises for a change that changes nothing."""
        if not 0 < abs(self.theta) < math.inf:
            raise ValueError(
                "`theta` is what is added to a value: it must be a number other than "
                f"0, got {self.theta}."
            )

    def start(
        self, problem: Problem, keys: Key | None, r: Count, *, watch: bool = False
    ) -> Carry:
        """Starts at the image, towards the target or the most likely wrong class."""
        del r  # one run
        x, target = problem.x, problem.y
        if not problem.targeted:
            logits = mean_logits(problem, x, model_keys(problem, keys, self.steps))
            target = likely_wrong_class(logits, target, jnp.zeros_like(target), 1)
        health = first_health(problem, self.steps, keys, x) if watch else None
        return Carry(x, target, jnp.zeros(x.shape[:1], bool), health)

    def step(self, problem: Problem, keys: Key | None, i: Count, carry: Carry) -> Carry:
        """Adds theta to the most salient pair; stays where misclassified."""
        x = carry.x
        up, down, logits = _forward_derivatives(
            problem, x, carry.target, model_keys(problem, keys, i)
        )
        health = carry.health
        if health is not None:
            health = watch_step(health, up, Evaluated(logits[:, 0], logits, None), i)
        low, high = problem.bounds
        sign = 1.0 if self.theta > 0 else -1.0
        free = x < high if self.theta > 0 else x > low
        rows = (v.reshape(v.shape[0], -1) for v in (sign * up, -sign * down, free))
        p, q, found = best_pair(*rows)
        moves = found & ~succeeds(problem, logits)
        place = jnp.arange(math.prod(x.shape[1:]))[None]
        pair = ((place == p[:, None]) | (place == q[:, None])) & moves[:, None]
        ahead = jnp.clip(x + self.theta, low, high)
        x = jnp.where(pair.reshape(x.shape), ahead, x)
        # Randomness may move a row again.
        still = jnp.zeros_like(moves) if problem.stochastic else ~moves
        return Carry(x, carry.target, still, health)

    def done(self, carry: Carry) -> jax.Array:
        """Rows that did not move: misclassified, or without a pair that helps."""
        return carry.still

    def finish(self, problem: Problem, keys: Key | None, carry: Carry) -> Images:
        """Returns the iterate where misclassified and within eps, else the image."""
        row_keys = model_keys(problem, keys, self.steps)
        fooled = succeeds(problem, mean_logits(problem, carry.x, row_keys))
        none = _nearest.of_images(problem, jnp.zeros_like(fooled))
        found = _nearest.nearer(problem, none, carry.x, fooled)
        return _nearest.within(problem, found)


def _forward_derivatives(
    problem: Problem, x: Images, target: Labels, keys: Key | None
) -> tuple[Images, Images, Logits]:
    """Gradients of the target's logit and of the sum of all others, and the logits."""
    logits, pull = jax.vjp(lambda z: mean_logits(problem, z, keys), x)
    own = jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
    return pull(own)[0], pull(1 - own)[0], logits


@shares(ModelOptions)
def jsma(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar | None = None,
    theta: float = 1.0,
    gamma: float = 1.0,
    norm: Norm = "l1",
    targeted: bool = False,
    unroll: int | bool | None = None,
    **options: Unpack[ModelOptions],
) -> Images:
    """Jacobian-based saliency map attack (Papernot et al. 2016, algorithms 2 and 3).

    Each step adds `theta` to two values of the image (a value is one channel of one
    pixel): of all pairs that raise the target's logit and lower the sum of the other
    logits, those where the product of rise and fall is largest. A value that has come
    to the wall of the box is not chosen again; a row stops once it is misclassified,
    and where no pair does both. The paper's attack has targets: without one, it is
    the most likely wrong class of the image, and any wrong class ends it. Changes few
    values, by much. Uses no randomness.

    A step is one model call and two gradients, and looks for the best pair of all,
    exactly, at a small part of the time that the table of all pairs would take.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: labels `[B]`; the target classes where `targeted`. An image that is
        misclassified already is returned as it is.
      key: one key (row i uses fold_in(key, i)) or one per example; needed with a
        stochastic model.
      eps: radius in `norm` up to which a perturbation counts; None: any. May be traced.
      theta: what a step adds to a value, in units of the images; below 0, takes away.
      gamma: largest share of the values that are changed, in [0, 1]; static. Makes for
        H W C gamma / 2 steps at most, fewer once no row moves. The paper's experiments
        have .145.
      norm: 'l1', 'linf' or 'l2', in which `eps` is; what the attack itself keeps small
        is the number of values that are changed.
      targeted: make the model predict `y` instead.
      unroll: how the loop is written out; None chooses.
      **options: shared by all attacks.

    Returns:
      Shape and dtype of `x`, in the box: the point so found where it is misclassified
      and within `eps`, else the image. No gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, The limitations of deep
      learning in adversarial settings, EuroS&P 2016, arXiv 1511.07528, section IV.
    """
    _checks.check_images(x)
    # The largest share of the values that are changed.
    _checks.check_within("gamma", gamma, _checks.Range(0, 1))
    problem = Problem(
        logits_fn,
        x,
        y,
        jnp.inf if eps is None else eps,
        0.0,
        norm=norm,
        targeted=targeted,
        **options,
    )
    steps = math.floor(math.prod(x.shape[1:]) * gamma / 2)
    return iterate(problem, JSMA(steps, theta=theta), key, unroll)
