"""The fast adaptive boundary attack: the smallest perturbation, not a fixed radius."""

import dataclasses
from typing import Annotated, NamedTuple, Self, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks import _fab_logits as logit
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._fab_projections import displacement
from jaxrobust.attacks._method import Count, Health, choose, model_keys, watched
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Judged, Keys, Problem, mean_logits, succeeds
from jaxrobust.attacks._options import ModelOptions, PositiveInt, shares

# Within what random restarts start where no radius is given, times the box's width.
_START_RADIUS = {"linf": 0.3, "l2": 1.0, "l1": 5.0}


class Carry(NamedTuple):
    """State between two steps."""

    x: Images
    nearest: Nearest
    target: Labels | None  # with which a row's boundary is looked for; None: with all
    health: Health | None


@dataclasses.dataclass(frozen=True)
class FAB(Smallest):
    """FAB without its arrays; with targets, run r is restart r % restarts of one."""

    targets: int | None = None
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    @property
    def needs_key(self) -> str | None:
        """Restarts start at random, the first one does not."""
        return "`restarts` > 1" if self.restarts > 1 else None

    def for_classes(self, classes: int) -> Self:
        """No more targets than there are wrong classes."""
        if self.targets is None:
            return self
        return dataclasses.replace(self, targets=max(1, min(self.targets, classes - 1)))

    def runs(self) -> int:
        """Restarts of every target."""
        return self.restarts * (self.targets or 1)

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image, or near it in a restart; ends there if misclassified."""
        x, row_keys = problem.x, model_keys(problem, keys, self.steps)
        logits = problem.clean_logits(row_keys)
        wrong, target = succeeds(problem, logits), None
        if self.targets is not None:
            rank = jnp.broadcast_to(jnp.asarray(r) // self.restarts, problem.y.shape)
            target = logit.likely_wrong_class(logits, problem.y, rank, self.targets)
        begin = x
        if self.restarts > 1:
            again = jnp.broadcast_to(jnp.asarray(r) % self.restarts > 0, x.shape[:1])
            begin = choose(again, _near(problem, keys), x)
        health = Health.first(problem, self.steps, keys, x)
        return Carry(begin, Nearest.first(problem, wrong), target, health)

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Linearises the boundary, goes past it, and back towards the image if past."""
        x, clean = carry.x, problem.x
        row_keys = model_keys(problem, keys, i)
        if carry.target is None:
            at = logit.differences(problem, x, row_keys)
        else:
            at = logit.differences_to(problem, x, carry.target, row_keys)
        df = logit.off_rounding(problem, at, x, row_keys)
        x = self._past(problem, x, df, at.gradient)
        fooled = succeeds(problem, mean_logits(problem, x, row_keys))
        return Carry(
            choose(fooled, clean + self.beta * (x - clean), x),
            carry.nearest.or_nearer(problem, x, fooled),
            carry.target,
            watched(carry.health, at.gradient, at.logits, i),
        )

    def _past(self, problem: Problem, x: Images, df: PerExample, dg: Images) -> Images:
        """Goes `eta` times the way to the boundary, from `x` and from the image."""
        clean, norm, bounds = problem.x, problem.norm, problem.bounds
        w, rows, clean_rows = (v.reshape(v.shape[0], -1) for v in (dg, x, clean))
        back = jnp.nan_to_num(df + jnp.sum(w * (clean_rows - rows), axis=1))
        d1 = displacement(rows, w, df, norm=norm, bounds=bounds)
        d2 = displacement(clean_rows, w, back, norm=norm, bounds=bounds)
        ways = (threat.distance(d, jnp.zeros_like(d), norm=norm) for d in (d1, d2))
        a1, a2 = (jnp.maximum(way, 1e-8) for way in ways)
        alpha = jnp.minimum(a1 / (a1 + a2), self.alpha_max)[:, None]
        ahead = (1 - alpha) * (rows + self.eta * d1)
        ahead = ahead + alpha * (clean_rows + self.eta * d2)
        return jnp.clip(ahead, *bounds).reshape(x.shape)

    def hit(self, problem: Problem, i: Count, carry: Carry) -> tuple[jax.Array, Images]:
        """A misclassified point within eps."""
        return carry.nearest.inside(problem), carry.nearest.x

    def missed(self, carry: Carry, rows: jax.Array) -> Carry:
        """Any misclassified point counts again, also a farther one."""
        distance = jnp.where(rows, jnp.inf, carry.nearest.distance)
        return carry._replace(nearest=carry.nearest._replace(distance=distance))

    def value(self, problem: Problem, x: Images, at: Judged) -> PerExample:
        """Of two runs that both fool, the nearer is kept."""
        return -threat.distance(x, problem.x, norm=problem.norm)


def _near(problem: Problem, keys: Keys) -> Images:
    """Draws the start of a restart, within half the radius."""
    assert keys is not None
    width = problem.bounds[1] - problem.bounds[0]
    eps = jnp.asarray(problem.eps, problem.x.dtype)
    radius = jnp.where(jnp.isfinite(eps), eps, _START_RADIUS[problem.norm] * width)
    return threat.sample(
        problem.x, key=keys, eps=radius / 2, norm=problem.norm, bounds=problem.bounds
    )


@shares(ModelOptions)
def fab(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None,
    steps: int = 100,
    targets: PositiveInt | None = None,
    alpha_max: Annotated[float, Range(0, 1)] = 0.1,
    eta: Annotated[float, Range(1, 10)] = 1.05,
    beta: Annotated[float, Range(0, 1, above=True)] = 0.9,
    restarts: PositiveInt = 1,
    **options: Unpack[ModelOptions],
) -> Images:
    """Fast adaptive boundary attack, FAB and FAB-T (Croce & Hein 2020, algorithm 1).

    Each step takes the decision boundary as the hyperplane that the gradient says it
    is, goes to its nearest points in the box from the iterate and from the image, a
    little past them, and towards the image again once the class has changed. Keeps
    the nearest misclassified point. Without restarts it uses no randomness.

    Args:
      steps: steps of each run, at least 0; two model calls each, one differentiated.
      targets: None looks for the boundary nearest of all classes, at one gradient per
        class and step; n for those to the n most likely wrong classes, one run each
        (FAB-T). More than K - 1 is K - 1.
      alpha_max: largest weight of the way that starts at the image.
      eta: how far the step goes, in units of the way to the boundary.
      beta: share of the perturbation that stays after the class has changed.
      restarts: runs per target; all but the first start at random within eps / 2.

    Reference:
      Croce & Hein, Minimally distorted adversarial examples with a fast adaptive
      boundary attack, ICML 2020, arXiv 1907.02044; FAB-T: Croce & Hein, Reliable
      evaluation of adversarial robustness, ICML 2020, arXiv 2003.01690, section 4.
    """
    method = FAB(
        steps, restarts, targets=targets, alpha_max=alpha_max, eta=eta, beta=beta
    )
    return iterate(method, logits_fn, x, y, eps, **options)
