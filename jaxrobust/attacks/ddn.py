"""DDN: direction from the gradient, length by whether the last one was enough."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import (
    Images,
    Labels,
    Logits,
    LogitsFn,
    PerExample,
    Scalar,
)
from jaxrobust.attacks._descent import DescentToNearest, farthest, width
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, like, model_keys, watched
from jaxrobust.attacks._nearest import Nearest
from jaxrobust.attacks._objective import Keys, Problem, judged_gradient
from jaxrobust.attacks._options import TargetOptions, shares


class Carry(NamedTuple):
    """The iterate, the length of its perturbation, and the nearest so far."""

    x: Images
    radius: PerExample
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class DDN(DescentToNearest):
    """DDN without its arrays."""

    norms = ("l2",)

    gamma: float = 0.05
    init_norm: float = 1.0
    levels: int | None = None

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image, or at `x_init` with its distance for the radius."""
        x, nearest = self.begin(problem, keys)
        radius = threat.distance(x, problem.x, norm="l2")
        radius = jnp.where(radius > 0, radius, self.init_norm * width(problem))
        return Carry(x, radius, nearest, Health.first(problem, self.steps, keys, x))

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Steps along the gradient, then to the new length: algorithm 1."""
        x, clean, wide = carry.x, problem.x, width(problem)
        ascended = dataclasses.replace(problem, loss=_log_odds)
        grad, at = judged_gradient(ascended, x, model_keys(problem, keys, i))
        change = jnp.where(at.fooled, 1 - self.gamma, 1 + self.gamma)
        radius = jnp.minimum(carry.radius * change.astype(x.dtype), farthest(problem))
        length = self.annealed(i, 1, 0.01).astype(x.dtype) * wide
        delta = threat.steepest_step(x, grad, step_size=length, norm="l2") - clean
        size = threat.distance(delta, jnp.zeros_like(delta), norm="l2")
        delta = delta * like(threat.safe_divide(radius, size), x)
        return Carry(
            self._on_levels(problem, jnp.clip(clean + delta, *problem.bounds)),
            radius,
            carry.nearest.or_nearer(problem, x, at.fooled),
            watched(carry.health, grad, at.logits, i),
        )

    def _on_levels(self, problem: Problem, x: Images) -> Images:
        if self.levels is None:
            return x
        low, steps = problem.bounds[0], (self.levels - 1) / width(problem)
        return jnp.clip(jnp.round((x - low) * steps) / steps + low, *problem.bounds)


def _log_odds(logits: Logits, y: Labels) -> PerExample:
    """log(1 / p_y - 1), whose gradient is that of -log p_y but for its length.

    log p_y itself is flat where p_y is rounded to 1.
    """
    own = jax.nn.one_hot(y, logits.shape[1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=1)
    return others - jnp.sum(jnp.where(own, logits, 0), axis=1)


@shares(TargetOptions, norm="l2")
def ddn(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    steps: int = 100,
    gamma: Annotated[float, Range(0, 1)] = 0.05,
    init_norm: Annotated[float, Range(0, 1e6, above=True)] = 1.0,
    levels: Annotated[int, Range(2)] | None = None,
    x_init: Images | None = None,
    **options: Unpack[TargetOptions],
) -> Images:
    """Decoupled direction and norm (Rony et al. 2019, algorithm 1): small in L2.

    Each step goes along the gradient of the cross-entropy (taken of the log-odds, which
    has the same direction and never vanishes by rounding), by a length that falls with
    half a cosine from 1 to .01, then scales the perturbation to a radius of its own:
    1 - gamma times the one before where the point was misclassified, else 1 + gamma
    times, no more than to the farthest corner of the box. Returns the nearest
    misclassified point. Lengths are in units of the box's width. Uses no randomness,
    where the authors' code steps at random from a gradient of 0: such a row stays.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: 4 * jnp.stack([x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]], axis=1)
    >>> x = jnp.full((1, 1, 1, 1), 0.7)  # class 0 down to a half
    >>> y = jnp.array([0])
    >>> round(float(attacks.ddn(logits_fn, x, y)[0, 0, 0, 0]), 2)
    0.5

    Args:
      steps: steps, at least 0, one gradient each; static.
      gamma: by how much a step changes the radius, in [0, 1].
      init_norm: the first radius, in units of the box's width.
      levels: round each point to so many levels of the box; None: to none. The authors'
        code has 256; the points in between are nearer.
      x_init: images `[B, H, W, C]` to start at; their distance is the first radius.
      norm: 'l2'; the attack has no other.

    Reference:
      Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger: Decoupling direction and
      norm for efficient gradient-based L2 adversarial attacks and defenses, CVPR 2019,
      arXiv 1811.09600, algorithm 1.
    """
    method = DDN(steps, gamma=gamma, init_norm=init_norm, levels=levels)
    return iterate(method, logits_fn, x, y, eps, x_init=x_init, loss="ce", **options)
