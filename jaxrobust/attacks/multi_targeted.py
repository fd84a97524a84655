"""PGD towards one class after another."""

import dataclasses
from typing import Literal, Self, Unpack

import jax.numpy as jnp

from jaxrobust.array_types import Images, Labels, Logits, LogitsFn, PerExample, Scalar
from jaxrobust.attacks import _fab_logits as logit
from jaxrobust.attacks._aimed import Aimed
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, model_keys
from jaxrobust.attacks._objective import Keys, Problem
from jaxrobust.attacks._options import ModelOptions, PositiveInt, shares


@dataclasses.dataclass(frozen=True)
class MultiTargeted(Aimed):
    """Run r is restart r % restarts of one target; a target is a class per row."""

    targets: int = 9
    order: str = "logits"

    def for_classes(self, classes: int) -> Self:
        """No more targets than there are wrong classes."""
        return dataclasses.replace(self, targets=max(1, min(self.targets, classes - 1)))

    def runs(self) -> int:
        """Restarts of every target."""
        return self.restarts * self.targets

    def aim(self, problem: Problem, keys: Keys, r: Count) -> Labels:
        """The class of run r, the likeliest (or nearest) wrong one first."""
        row_keys = model_keys(problem, keys, 0)
        rank = jnp.broadcast_to(jnp.asarray(r) // self.restarts, problem.y.shape)
        if self.order == "boundaries":
            return logit.nearest_wrong_class(problem, row_keys, rank, self.targets)
        likely = problem.clean_logits(row_keys)
        return logit.likely_wrong_class(likely, problem.y, rank, self.targets)

    def aimed(self, problem: Problem, aim: Labels, i: Count) -> Problem:
        """Ascends z_target - z_y."""

        def loss(logits: Logits, y: Labels) -> PerExample:
            rows = jnp.stack([aim, y], axis=1)
            gained, lost = jnp.take_along_axis(logits, rows, axis=1).T
            return gained - lost

        return dataclasses.replace(problem, loss=loss)


@shares(ModelOptions)
def multi_targeted(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    targets: PositiveInt = 9,
    order: Literal["logits", "boundaries"] = "logits",
    random_start: bool = True,
    restarts: PositiveInt = 1,
    **options: Unpack[ModelOptions],
) -> Images:
    """Multi-targeted PGD (Gowal et al. 2019, section 3).

    `pgd` on z_target - z_y, once for each target class of the image; what is best by
    the margin is kept, a misclassified point first.

    Args:
      y: true labels `[B]`.
      eps: radius of the ball, of the shapes that `pgd` takes; may be traced.
      step_size: length of a step in the norm; may be traced.
      steps: number of steps per target and restart, at least 0.
      targets: number of target classes, at least 1; K - 1 where that is less.
      order: of the classes, from which the first are taken: by their 'logits' on the
        clean image; or, as MALT aims, nearest first by the linearised 'boundaries'
        there, in the norm of the threat, of the 100 likeliest classes (a gradient for
        each of these once per run).
      random_start: start from `threat.sample` instead of `x`.
      restarts: random starts per target.
      norm: 'linf', 'l2' or 'l1'.

    Returns:
      Attacked images, shape and dtype of `x`, in ball and box; no gradient flows.

    Reference:
      Gowal et al., An alternative surrogate loss for PGD-based adversarial testing,
      arXiv 1910.09338. MALT: Melamed et al., NeurIPS 2024, arXiv 2407.02240, which then
      runs APGD, not PGD.
    """
    method = MultiTargeted(steps, restarts, random_start, targets=targets, order=order)
    fields = {"loss": "margin", **options}
    return iterate(method, logits_fn, x, y, eps, step_size, **fields)
