"""DeepFool: from linearised boundary to linearised boundary."""

import dataclasses
from typing import NamedTuple, Unpack

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
from jaxrobust.attacks import _checks, _nearest
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._fab_logits import differences, off_rounding
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
    Evaluated,
    Problem,
    logits_dtype,
    mean_logits,
    succeeds,
)
from jaxrobust.attacks._options import ModelOptions, shares


class Carry(NamedTuple):
    """The iterate: the image and all steps so far, each with its overshoot."""

    x: Images
    health: Health | None


@dataclasses.dataclass(frozen=True)
class DeepFool(Method):
    """DeepFool without its arrays."""

    overshoot: float = 0.02

    def check(self) -> None:
        """Raises unless the overshoot is a number of at least 0."""
        _checks.check_ranges(overshoot=self.overshoot)

    def start(
        self, problem: Problem, keys: Key | None, r: Count, *, watch: bool = False
    ) -> Carry:
        """Starts at the image."""
        del r  # one run
        x = problem.x
        return Carry(x, first_health(problem, self.steps, keys, x) if watch else None)

    def step(self, problem: Problem, keys: Key | None, i: Count, carry: Carry) -> Carry:
        """Goes past the nearest linearised boundary; stays where misclassified."""
        x = carry.x
        row_keys = model_keys(problem, keys, i)
        at = differences(problem, x, row_keys)
        health = carry.health
        if health is not None:
            seen = Evaluated(at.value, at.logits, None)
            health = watch_step(health, at.gradient, seen, i)
        # Where the logits of a black image are all 0, its own values tell no precision.
        farthest = jnp.full_like(x, max(abs(v) for v in problem.bounds))
        dtype = logits_dtype(problem, x, row_keys)
        df = off_rounding(problem, at, farthest, dtype)
        way = _to_plane(at.gradient, jnp.abs(df), problem.norm)
        ahead = jnp.clip(x + (1 + self.overshoot) * way, *problem.bounds)
        stays = like(succeeds(problem, at.logits), x)
        return Carry(jnp.where(stays, x, ahead), health)

    def finish(self, problem: Problem, keys: Key | None, carry: Carry) -> Images:
        """Returns the iterate where misclassified and within eps, else the image."""
        row_keys = model_keys(problem, keys, self.steps)
        fooled = succeeds(problem, mean_logits(problem, carry.x, row_keys))
        none = _nearest.of_images(problem, jnp.zeros_like(fooled))
        found = _nearest.nearer(problem, none, carry.x, fooled)
        return _nearest.within(problem, found)


def _to_plane(w: Images, amount: PerExample, norm: Norm) -> Images:
    """The shortest way along which w . x grows by `amount`; none where w is 0."""
    axes = tuple(range(1, w.ndim))
    # Over the largest weight, so that no square is too small or too large.
    largest = jnp.max(jnp.abs(w), axis=axes)
    scale = jnp.where(largest > 0, largest, 1)
    w = w / like(scale, w)
    way = w if norm == "l2" else jnp.sign(w)
    gain = scale * jnp.sum(w * way, axis=axes)
    limit = jnp.finfo(w.dtype).max / 8
    length = jnp.where(gain > 0, jnp.minimum(amount / gain, limit), 0)
    return like(length, w) * way


@shares(ModelOptions)
def deepfool(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar | None = None,
    steps: int = 50,
    overshoot: float = 0.02,
    norm: Norm = "l2",
    unroll: int | bool | None = None,
    **options: Unpack[ModelOptions],
) -> Images:
    """DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2).

    Each step takes the logits as linear, goes to the nearest point at which another
    class catches up with `y` (of all classes), 1 + overshoot times as far, and into
    the box; a row stops once it is misclassified. As in the authors' code the point
    looked at is the image plus 1 + overshoot times all steps so far; the paper's
    algorithm overshoots after the last step only, and ends further away. Uses no
    randomness.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: labels `[B]`. An image that is misclassified already is returned as it is.
      key: one key (row i uses fold_in(key, i)) or one per example; needed with a
        stochastic model.
      eps: radius up to which a perturbation counts; None: any. May be traced.
      steps: steps, at least 0, of one gradient per class each; static.
      overshoot: share of the perturbation that is added to it.
      norm: 'l2' or 'linf', in which the steps are shortest.
      unroll: how the loop is written out; None chooses.
      **options: shared by all attacks.

    Returns:
      Shape and dtype of `x`, in the box: the point so found where it is misclassified
      and within `eps`, else the image. No gradient flows.

    Raises:
      ValueError: for a value out of range or another norm, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Moosavi-Dezfooli, Fawzi, Frossard, DeepFool: a simple and accurate method to fool
      deep neural networks, CVPR 2016, arXiv 1511.04599, algorithm 2; other norms:
      section 3.3.
    """
    threat.check_norm(norm)
    if norm == "l1":
        raise ValueError(
            "deepfool has `norm` 'l2' or 'linf', got 'l1', in which a step would be a "
            "single value and end at the wall; use fab."
        )
    problem = Problem(
        logits_fn,
        x,
        y,
        jnp.inf if eps is None else eps,
        0.0,
        norm=norm,
        **options,
    )
    return iterate(problem, DeepFool(steps, overshoot=overshoot), key, unroll)
