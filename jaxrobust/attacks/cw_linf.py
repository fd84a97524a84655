"""Carlini & Wagner's Linf attack: a penalty on what exceeds a shrinking radius."""

import dataclasses
from typing import Annotated, Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._carlini import (
    ADAM,
    Carlini,
    from_images,
    per_lead,
    to_images,
)
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys, watched
from jaxrobust.attacks._nearest import Nearest
from jaxrobust.attacks._objective import Keys, Problem, judged_gradient
from jaxrobust.attacks._options import PositiveInt, TargetOptions, shares

# What tau is multiplied by after a round that succeeds, and c after one that fails.
_SHRINK = 0.9
_GROWTH = 2
# An image is done once tau is below that share of the box: a level of 8-bit images.
_FINEST = 1 / 256
# A round's loss is looked at after that many steps, or every tenth of them where that
# is more, and must have fallen to that share.
_WINDOW, _GAIN = 100, 0.9999


class Carry(NamedTuple):
    """State between two steps, of a round that looks for a point within `tau`."""

    w: Images
    adam: Any
    made: jax.Array  # steps of the round so far
    before: PerExample  # its loss when that was looked at last
    tau: PerExample
    const: PerExample
    largest: PerExample  # that const may become
    done: jax.Array  # nothing is left to find
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class CarliniLinf(Carlini):
    """The attack without its arrays; its steps are those of all rounds."""

    largest_const: float = 20.0

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image, with all of the box within tau."""
        x, w = problem.x, from_images(problem.x, problem.bounds)
        won, margin = self.at_the_images(problem, keys)
        ones = jnp.ones(x.shape[:1], x.dtype)
        scale = per_lead(margin)
        return Carry(
            w,
            ADAM.init(w),
            jnp.zeros(x.shape[:1], jnp.int32),
            ones * jnp.inf,
            ones * (problem.bounds[1] - problem.bounds[0]),
            scale * self.initial_const,
            scale * self.largest_const,
            won,
            Nearest.first(problem, won),
            Health.first(problem, self.steps, keys, x),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Ends the round where it has succeeded, makes a step of Adam, ends the failed.

        A round goes on where the one before it ended, with Adam at rest.
        """
        x, slope = to_images(carry.w, problem.bounds)
        grad, at = judged_gradient(problem, x, model_keys(problem, keys, i))
        won = self.won(at)
        length = threat.distance(x, problem.x, norm="linf")
        done = won & (length <= carry.tau)
        tau = jnp.where(done, _SHRINK * length, carry.tau)
        rest = ADAM.init(carry.w)
        count = jnp.where(done, 0, carry.made)
        delta = x - problem.x
        over = jnp.maximum(jnp.abs(delta) - like(tau, x), 0)
        penalty = jnp.sign(delta) * (over > 0)
        const = jnp.where(won, 0, carry.const)
        grad_w = (penalty - like(const, x) * jnp.nan_to_num(grad)) * slope
        w, adam = self.descend(carry.w, grad_w, choose(done, rest, carry.adam))
        excess = jnp.sum(over, axis=tuple(range(1, x.ndim)))
        loss = excess + const * (self.kappa - at.value)
        failed, before = self._failed(count, loss, carry.before)
        more = jnp.minimum(carry.const * _GROWTH, carry.largest)
        finest = _FINEST * (problem.bounds[1] - problem.bounds[0])
        ends = failed & (carry.const >= carry.largest)
        ends |= tau < jnp.minimum(finest, problem.eps)
        return Carry(
            w,
            choose(failed, rest, adam),
            jnp.where(failed, 0, count + 1),
            jnp.where(failed | done, jnp.inf, before),
            tau,
            jnp.where(failed, more, carry.const),
            carry.largest,
            carry.done | ends,
            # What is done stays, however long the others of its batch take.
            carry.nearest.or_nearer(problem, x, won & ~carry.done),
            watched(carry.health, grad, at.logits, i),
        )

    def _failed(
        self, made: jax.Array, loss: PerExample, before: PerExample
    ) -> tuple[jax.Array, PerExample]:
        """Which rounds end in vain: after all steps, or where the loss stands still."""
        look = (made + 1) % max(self.descent // 10, _WINDOW) == 0
        still = look & ~(loss < _GAIN * before)
        return still | (made + 1 >= self.descent), jnp.where(look, loss, before)

    def done(self, carry: Carry) -> jax.Array:
        """Rows whose tau is below what an image shows, or whose constant is largest."""
        return carry.done


@shares(TargetOptions, norm="linf")
def cw_linf(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    rounds: PositiveInt = 30,
    steps: int = 1000,
    lr: Annotated[float, Range(0, 1e6)] = 0.005,
    kappa: Annotated[float, Range(0, 1e10)] = 0.0,
    initial_const: Annotated[float, Range(0, 1e10, above=True)] = 1e-5,
    largest_const: Annotated[float, Range(0, 1e10, above=True)] = 20.0,
    **options: Unpack[TargetOptions],
) -> Images:
    """Carlini & Wagner's Linf attack (2017, section VI.C).

    Minimises c max(-m(x'), -kappa) + sum_i max(|x'_i - x_i| - tau, 0) with Adam, where
    m is the margin by which x' is misclassified, over w with x' = (tanh(w) + 1) / 2
    scaled to the box. A round looks for a point within tau that is misclassified by
    kappa. Where it finds one, tau becomes .9 of that point's distance; where it makes
    `steps` steps in vain, or a tenth of them lowers its loss by less than .01 %, c
    doubles. The next round goes on from there, as in the authors' code. Rounds end per
    example, and an example is done once tau is below 1/256 of the box (and `eps`) or a
    round with the largest c has failed. The attack ends once all are done, or after
    rounds * steps steps. Keeps the nearest such point. Uses no randomness.

    Args:
      rounds: longest rounds, at least 1, for which there is time; static. From
        `initial_const` to `largest_const` there are 22 that fail.
      steps: of the longest round, at least 0, one gradient each; static. Values at a
        wall take about 6 / `lr` of them to come into the middle of the box.
      lr: Adam's learning rate, in units of w. A step moves a value by up to half of it
        times the width of the box: smaller for models that fall at tiny radii.
      kappa: margin, in logits, by which a point must be misclassified.
      initial_const: the first c, above 0; over the image's lead where that is
        not between .01 and 100, so that the scale of the logits does not count (ours).
      largest_const: what c grows to, likewise.
      norm: 'linf'; `cw_l2` has the other.

    Reference:
      That of `cw_l2`, section VI.C; the numbers are those of its authors' code.
    """
    if (norm := options.get("norm")) != "linf":
        raise ValueError(f"cw_linf has `norm` 'linf' alone, got {norm!r}; see cw_l2.")
    method = CarliniLinf(
        rounds * steps,
        descent=steps,
        lr=lr,
        kappa=kappa,
        initial_const=initial_const,
        largest_const=largest_const,
    )
    return iterate(method, logits_fn, x, y, eps, loss="margin", **options)
