"""Carlini & Wagner's L2 attack: the smallest perturbation by gradient descent."""

import dataclasses
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust.array_types import Images, Labels, LogitsFn, Norm, PerExample, Scalar
from jaxrobust.attacks._carlini import ADAM, Carlini, from_images, to_images
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys, watched
from jaxrobust.attacks._nearest import Nearest
from jaxrobust.attacks._objective import Keys, Problem, judged_gradient
from jaxrobust.attacks._options import ModelOptions, shares

# What the weight of the logits is multiplied by until it is found to be enough.
_GROWTH = 10


class Carry(NamedTuple):
    """State between two steps.

    `const` is c of the binary step, between the largest that failed and the least that
    was enough; `hit` tells whether it has been enough in this binary step.
    """

    w: Images
    adam: Any
    const: PerExample
    failed: PerExample
    enough: PerExample
    hit: jax.Array
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class CarliniL2(Carlini):
    """The attack without its arrays; its steps are those of all binary steps."""

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image."""
        del r  # one run
        x, w = problem.x, from_images(problem.x, problem.bounds)
        zero = jnp.zeros(x.shape[:1], x.dtype)
        return Carry(
            w,
            ADAM.init(w),
            zero + self.initial_const,
            zero,
            zero + jnp.inf,
            zero != 0,
            Nearest.first(problem, self.won_at_once(problem, keys)),
            Health.first(problem, self.steps, keys, x),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Makes a step of Adam, the first of a binary step with a new constant."""
        begins = jnp.asarray((i % self.descent == 0) & (i > 0))
        carry = _at_binary_step(
            problem, jnp.broadcast_to(begins, carry.hit.shape), carry
        )
        x, slope = to_images(carry.w, problem.bounds)
        grad, at = judged_gradient(problem, x, model_keys(problem, keys, i))
        won = self.won(at)
        # The hinge is flat beyond kappa; there the distance alone counts.
        pull = like(jnp.where(won, 0, carry.const), x) * jnp.nan_to_num(grad)
        w, adam = self.descend(
            carry.w, (2 * (x - problem.x) - pull) * slope, carry.adam
        )
        return carry._replace(
            w=w,
            adam=adam,
            hit=carry.hit | won,
            nearest=carry.nearest.or_nearer(problem, x, won),
            health=watched(carry.health, grad, at.logits, i),
        )


def _at_binary_step(problem: Problem, begins: jax.Array, carry: Carry) -> Carry:
    """Where a binary step begins, bisects the constant and goes back to the image."""
    const, hit = carry.const, carry.hit
    enough = jnp.where(hit, jnp.minimum(carry.enough, const), carry.enough)
    failed = jnp.where(hit, carry.failed, jnp.maximum(carry.failed, const))
    between = (failed + jnp.where(jnp.isinf(enough), 0, enough)) / 2
    next_const = jnp.where(jnp.isinf(enough), const * _GROWTH, between)
    image = from_images(problem.x, problem.bounds)
    fresh = carry._replace(
        w=image,
        adam=ADAM.init(image),
        const=next_const,
        failed=failed,
        enough=enough,
        hit=jnp.zeros_like(hit),
    )
    return choose(begins, fresh, carry)


@shares(ModelOptions)
def cw_l2(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    binary_steps: int = 9,
    steps: int = 1000,
    lr: float = 0.01,
    kappa: float = 0.0,
    initial_const: float = 1e-3,
    norm: Norm = "l2",
    targeted: bool = False,
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
      eps: radius up to which a perturbation counts; None: any. May be traced.
      binary_steps: constants c tried per example, at least 1; static.
      steps: steps of Adam per constant, at least 0, one gradient each; static.
      lr: Adam's learning rate, in units of w.
      kappa: margin, in logits, by which a point must be misclassified.
      initial_const: the first c, above 0.
      norm: 'l2'; `cw_linf` has the other.
      targeted: make the model predict `y` instead.
      **options: shared by all attacks.

    Returns:
      Shape and dtype of `x`, in the box: the nearest such point found where it is
      within `eps`, else the image. No gradient flows.

    Reference:
      Carlini & Wagner, Towards evaluating the robustness of neural networks, IEEE S&P
      2017, arXiv 1608.04644, sections V and VI.A (f_6 on logits); the schedule of c is
      that of their code.
    """
    if norm != "l2":
        raise ValueError(f"cw_l2 has `norm` 'l2' alone, got {norm!r}; see cw_linf.")
    method = CarliniL2(
        binary_steps * steps,
        descent=steps,
        lr=lr,
        kappa=kappa,
        initial_const=initial_const,
    )
    fields = {"norm": norm, "loss": "margin", "targeted": targeted, **options}
    return iterate(method, logits_fn, x, y, eps, **fields)
