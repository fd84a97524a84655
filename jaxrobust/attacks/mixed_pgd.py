"""PGD whose restarts ascend different losses."""

import dataclasses
from typing import Any, Unpack

import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust._checks import nearest_match
from jaxrobust.array_types import Images, Labels, Logits, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._aimed import Aimed
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count
from jaxrobust.attacks._objective import Keys, Problem
from jaxrobust.attacks._options import BallOptions, PositiveInt, shares

_PARTS = {
    "ce": losses.cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
}
_TURNS = "alternating"


@dataclasses.dataclass(frozen=True)
class MixedLosses(Aimed):
    """The aim is which of `mix` the run ascends."""

    mix: tuple[str, ...] = (*_PARTS, _TURNS)
    turns: int = 4

    def runs(self) -> int:
        """Without a random start only as many as differ."""
        return self.turns if self.needs_key else min(self.turns, len(self.mix))

    def aim(self, problem: Problem, keys: Keys, r: Count) -> Any:
        """One after the other."""
        kinds = jnp.array([[*_PARTS, _TURNS].index(name) for name in self.mix])
        return jnp.broadcast_to(kinds[jnp.asarray(r) % len(self.mix)], problem.y.shape)

    def aimed(self, problem: Problem, aim: Any, i: Count) -> Problem:
        """All three are computed, which costs nothing beside the network."""
        which = jnp.where(aim == len(_PARTS), jnp.asarray(i) % len(_PARTS), aim)

        def loss(logits: Logits, y: Labels) -> PerExample:
            few = logits.shape[1] < 3  # the DLR loss needs three classes
            parts = [
                losses.margin(logits, y) if few and name == "dlr" else part(logits, y)
                for name, part in _PARTS.items()
            ]
            chosen = jnp.broadcast_to(which, y.shape)[None]
            return jnp.take_along_axis(jnp.stack(parts), chosen, axis=0)[0]

        return dataclasses.replace(problem, loss=loss)


@shares(BallOptions, loss="margin")
def mixed_pgd(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    mix: str = "ce+margin+dlr+alternating",
    random_start: bool = True,
    restarts: PositiveInt = 4,
    **options: Unpack[BallOptions],
) -> Images:
    """`pgd` whose restarts ascend different losses, one after the other.

    One loss may have no gradient where another has: the cross-entropy of confident
    logits, the DLR loss of a class ranked third.

    Args:
      mix: losses of restarts 0, 1, 2 ..., joined by `+` and taken in turns: 'ce',
        'margin', 'dlr', and 'alternating', which takes another in each step.
      loss: by which restarts are compared, where none, or several, are misclassified.

    Reference:
      Ours; for alternating losses see Antoniou et al., Alternating objectives
      generates stronger PGD-based adversarial attacks, arXiv 2212.07992.
    """
    names = tuple(mix.split("+"))
    for name in names:
        if name not in (*_PARTS, _TURNS):
            raise ValueError(
                f"`mix` must be losses joined by +, got {mix!r}: no loss {name!r}. "
                f"{nearest_match(name, (*_PARTS, _TURNS))}"
            )
    method = MixedLosses(steps, random_start=random_start, mix=names, turns=restarts)
    return iterate(method, logits_fn, x, y, eps, step_size, **options)
