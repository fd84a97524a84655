"""Multi steepest descent: in each step the norm whose step raises the loss most."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import NORMS, Range
from jaxrobust.array_types import Images, Labels, LogitsFn
from jaxrobust.attacks._ascent import Kept
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, Method, choose, model_keys, watched
from jaxrobust.attacks._objective import Judged, Keys, Problem, evaluate, gradient
from jaxrobust.attacks._options import ChangeOptions, shares

Size = Annotated[float, Range(0, 1e6)]


class Carry(NamedTuple):
    """The point, the best one, and health."""

    x: Images
    best: Kept
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Steepest(Method):
    """The attack without its arrays; `radii` in the order of `NORMS`, 0: left out."""

    radii: tuple[float, ...] = ()
    stride: float = 0.1

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image."""
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        best = Kept(x, _comparable(at, x), at.fooled)
        return Carry(x, best, Health.first(problem, self.steps, keys, x))

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Steps in each norm, back into its ball, and takes the highest loss."""
        x, row_keys = carry.x, model_keys(problem, keys, i)
        grad, seen = gradient(problem, x, row_keys)
        chosen = Kept(x, jnp.full_like(carry.best.value, -jnp.inf), carry.best.fooled)
        for norm, eps in zip(NORMS, self.radii, strict=True):
            if not eps:
                continue
            box = {"norm": norm, "bounds": problem.bounds}
            ahead = threat.steepest_step(x, grad, step_size=self.stride * eps, **box)
            ahead = threat.project(ahead, problem.x, eps=eps, **box)
            at = evaluate(problem, ahead, row_keys)
            new = Kept(ahead, _comparable(at, x), at.fooled)
            chosen = choose(new.value > chosen.value, new, chosen)
        better = ~carry.best.fooled & (
            chosen.fooled | (chosen.value > carry.best.value)
        )
        health = watched(carry.health, grad, seen.logits, i, carry.best.fooled)
        return Carry(chosen.x, choose(better, chosen, carry.best), health)

    def finish(self, problem: Problem, keys: Keys, carry: Carry) -> Images:
        """Returns the first misclassified point, else that of the highest loss."""
        return carry.best.x

    def done(self, carry: Carry) -> jax.Array:
        """Rows that are misclassified."""
        return carry.best.fooled


def _comparable(at: Judged, x: Images) -> jax.Array:
    return jnp.where(jnp.isnan(at.value), -jnp.inf, at.value).astype(x.dtype)


@shares(ChangeOptions, loss="margin")
def msd(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    linf: Size = 0.03,
    l2: Size = 0.5,
    l1: Size = 12.0,
    steps: int = 50,
    stride: Annotated[float, Range(0, 1e3, above=True)] = 0.1,
    **options: Unpack[ChangeOptions],
) -> Images:
    """Multi steepest descent (Maini et al. 2020): the union of three balls.

    Each step goes along the steepest direction of each norm, back into its ball, and on
    from the point of the highest loss. A row ends once it is misclassified. The result
    lies in one of the balls; `threat.union.distance` says so. Radii and the length of
    steps are the authors' for CIFAR-10, but in L1, where they draw how many values
    move and a step here is one tenth of the radius too.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> from jaxrobust.threat import union
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 2.)], 1)
    >>> x, y = jnp.full((1, 2, 2, 1), 0.6), jnp.array([0])
    >>> x_adv = attacks.msd(logits_fn, x, y, linf=0.12, l2=0.1, l1=0.1)
    >>> x_adv.sum() < 2, union.distance(x_adv, x, {"linf": 0.12, "l2": 0.1}) <= 1
    (Array(True, dtype=bool), Array([ True], dtype=bool))

    Args:
      linf: radius in Linf, 0 to leave it out; static, as the others.
      l2: radius in L2.
      l1: radius in L1.
      stride: length of a step in radii; static.

    Reference:
      Maini, Wong, Kolter: Adversarial robustness against the union of multiple
      perturbation models, ICML 2020, arXiv 1909.04068, algorithm 1.
    """
    radii = tuple(map(float, (linf, l2, l1)))
    if not any(radii):
        raise ValueError("of `linf`, `l2` and `l1` one radius must be above 0.")
    method = Steepest(steps, radii=radii, stride=stride)
    return iterate(method, logits_fn, x, y, None, **options)
