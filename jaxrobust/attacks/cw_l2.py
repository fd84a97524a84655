"""Carlini & Wagner's L2 attack: the smallest perturbation by gradient descent."""

import dataclasses
from typing import Annotated, Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._carlini import ADAM, Carlini, Weight, from_images, to_images
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys, watched
from jaxrobust.attacks._nearest import Nearest
from jaxrobust.attacks._objective import Keys, Problem, judged_gradient
from jaxrobust.attacks._options import PositiveInt, TargetOptions, shares


class Carry(NamedTuple):
    """State between two steps."""

    w: Images
    adam: Any
    weight: Weight  # of the binary step
    hit: jax.Array  # whether it has been enough in it
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class CarliniL2(Carlini):
    """The attack without its arrays; its steps are those of all binary steps."""

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image."""
        x, w = problem.x, from_images(problem.x, problem.bounds)
        won, margin = self.at_the_images(problem, keys)
        return Carry(
            w,
            ADAM.init(w),
            Weight.first(margin, self.initial_const),
            jnp.zeros(x.shape[:1], bool),
            Nearest.first(problem, won),
            Health.first(problem, self.steps, keys, x),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Makes a step of Adam, the first of a binary step with a new constant."""
        begins = jnp.asarray((i % self.descent == 0) & (i > 0))
        begins = jnp.broadcast_to(begins, carry.hit.shape)
        carry = choose(begins, _again(problem, carry), carry)
        x, slope = to_images(carry.w, problem.bounds)
        grad, at = judged_gradient(problem, x, model_keys(problem, keys, i))
        won = self.won(at)
        # The hinge is flat beyond kappa; there the distance alone counts.
        pull = like(jnp.where(won, 0, carry.weight.c), x) * jnp.nan_to_num(grad)
        grad_w = (2 * (x - problem.x) - pull) * slope
        w, adam = self.descend(carry.w, grad_w, carry.adam)
        return carry._replace(
            w=w,
            adam=adam,
            hit=carry.hit | won,
            nearest=carry.nearest.or_nearer(problem, x, won),
            health=watched(carry.health, grad, at.logits, i),
        )


def _again(problem: Problem, carry: Carry) -> Carry:
    """Another binary step: back at the image, with another constant."""
    w = from_images(problem.x, problem.bounds)
    weight, none = carry.weight.next(carry.hit), jnp.zeros_like(carry.hit)
    return carry._replace(w=w, adam=ADAM.init(w), weight=weight, hit=none)


@shares(TargetOptions, norm="l2")
def cw_l2(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    binary_steps: PositiveInt = 9,
    steps: int = 1000,
    lr: Annotated[float, Range(0, 1e6)] = 0.01,
    kappa: Annotated[float, Range(0, 1e10)] = 0.0,
    initial_const: Annotated[float, Range(0, 1e10, above=True)] = 1e-3,
    **options: Unpack[TargetOptions],
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
      binary_steps: constants c tried per example, at least 1; static.
      steps: steps of Adam per constant, at least 0, one gradient each; static.
      lr: Adam's learning rate, in units of w.
      kappa: margin, in logits, by which a point must be misclassified.
      initial_const: the first c, above 0; over the image's lead where that is
        not between .01 and 100, so that the scale of the logits does not count (ours).
      norm: 'l2'; `cw_linf` has the other.

    Reference:
      Carlini & Wagner, Towards evaluating the robustness of neural networks, IEEE S&P
      2017, arXiv 1608.04644, sections V and VI.A (f_6 on logits); the schedule of c is
      that of their code.
    """
    if (norm := options.get("norm")) != "l2":
        raise ValueError(f"cw_l2 has `norm` 'l2' alone, got {norm!r}; see cw_linf.")
    method = CarliniL2(
        binary_steps * steps,
        descent=steps,
        lr=lr,
        kappa=kappa,
        initial_const=initial_const,
    )
    return iterate(method, logits_fn, x, y, eps, loss="margin", **options)
