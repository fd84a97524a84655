"""The Brendel & Bethge attack: along the boundary towards the image, by gradients."""

import dataclasses
from typing import Annotated, Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks import _brendel_bethge_steps as steps_
from jaxrobust.attacks import _fab_logits as logit
from jaxrobust.attacks._decisions import first_misclassified
from jaxrobust.attacks._descent import to_boundary, width
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys, watched
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate, judged_gradient
from jaxrobust.attacks._options import PositiveInt, TargetOptions, shares

# Images of noise that are tried for a first point, and halvings from it to the image.
_TRIES, _HALVINGS = 10, 10


class Carry(NamedTuple):
    """State between two steps."""

    x: Images
    normal: Images  # of the boundary, a running mean of gradients
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class BrendelBethge(Smallest):
    """The Brendel & Bethge attack without its arrays."""

    norms = ("linf", "l2", "l1", "l0")
    random = "the Brendel & Bethge attack"

    lr: float = 1e-3
    lr_decay: float = 0.5
    decays: int = 20
    momentum: float = 0.8
    overshoot: float = 1.1

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the boundary between a misclassified point and the image."""
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        begin = first_misclassified(problem, keys, _TRIES)
        begin = choose(at.fooled, x, to_boundary(problem, keys, begin, _HALVINGS))
        health = Health.first(problem, self.steps, keys, x)
        nearest = Nearest.first(problem, at.fooled)
        return Carry(begin, jnp.zeros_like(x), nearest, health)

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Takes the boundary for a plane, and goes there as near as the radius lets."""
        x = carry.x
        grad, at = judged_gradient(problem, x, model_keys(problem, keys, i))
        keep = jnp.where(jnp.asarray(i) == 0, 0, self.momentum).astype(x.dtype)
        normal = keep * carry.normal + (1 - keep) * threat.tamed(grad)
        first = jnp.zeros_like(problem.y)
        other = logit.likely_wrong_class(at.logits, problem.y, first, 1)
        value = logit.Difference(threat.tamed(at.value), grad, other, at.logits)
        value = logit.off_rounding(problem, value, x, model_keys(problem, keys, i))
        # A little beyond from the right side of it, not quite there from the other.
        share = jnp.where(value > 0, 2 - self.overshoot, self.overshoot)
        gain = -(share * value).astype(x.dtype)
        decays = jnp.asarray(i) // max(1, self.steps // self.decays)
        radius = self.lr * self.lr_decay ** decays.astype(x.dtype) * x[0].size
        ahead = _ahead(problem, x, normal, gain, radius)
        return Carry(
            ahead,
            normal,
            carry.nearest.or_nearer(problem, x, at.fooled),
            watched(carry.health, grad, at.logits, i),
        )

    def done(self, carry: Carry) -> jax.Array:
        """Rows whose image needs no change."""
        return carry.nearest.distance == 0


def _ahead(
    problem: Problem, x: Images, normal: Images, gain: PerExample, radius: Any
) -> Images:
    """The point of the plane, `gain` along the gradient, that is nearest the image."""
    (low, high), wide = problem.bounds, width(problem)
    rows, clean, b = (v.reshape(len(x), -1) for v in (x, problem.x, normal))
    largest = jnp.max(jnp.abs(b), axis=1)
    task = steps_.Task(
        e=(clean - rows) / wide,
        b=threat.safe_divide(b, like(largest, b)),
        c=threat.tamed(threat.safe_divide(gain, largest * wide)),
        r=jnp.broadcast_to(radius, gain.shape),
        low=(low - rows) / wide,
        high=(high - rows) / wide,
    )
    d = jax.vmap(lambda row: steps_.step(row, problem.norm))(task)
    ahead = jnp.clip(rows + wide * d, low, high)
    return jnp.where(d == task.e, clean, ahead).reshape(x.shape)


@shares(TargetOptions)
def brendel_bethge(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    steps: int = 1000,
    lr: Annotated[float, Range(0, 1e3)] = 1e-3,
    lr_decay: Annotated[float, Range(0, 1)] = 0.5,
    decays: PositiveInt = 20,
    momentum: Annotated[float, Range(0, 1)] = 0.8,
    overshoot: Annotated[float, Range(1, 2)] = 1.1,
    x_init: Images | None = None,
    **options: Unpack[TargetOptions],
) -> Images:
    """Brendel & Bethge attack (2019, section 3): along the boundary, all norms.

    From a misclassified noise image, brought to the boundary by halvings of the
    distance. Each step takes the boundary for a plane, with the mean of the last
    gradients of the margin for its normal, and goes to the point of that plane, of the
    box, and of a ball of radius r around the iterate that is nearest to the image: an
    exact solution, found by searches for the two multipliers (in L0 that of the
    relaxed problem, which may change one value too many). Where the ball does not reach
    the plane, the step goes as far towards it as it can. Returns the nearest
    misclassified point.

    Settings are Foolbox's, by the authors; there the radius is also multiplied by the
    number of images in the batch. A row for which no noise image is misclassified, as
    with most targets, starts at the image itself.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 3.0)], 1)
    >>> x, y, key = jnp.ones((1, 2, 2, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.brendel_bethge(
    ...     logits_fn, x, y, norm="l2", key=key, steps=50, lr=0.1
    ... )
    >>> round(float(jnp.linalg.norm(x_adv - x)), 2)  # .5 from 1 and 4 values
    0.5

    Args:
      steps: steps, at least 0, one gradient each; static. At most 21 more calls find
        the first point.
      lr: the radius r of the first steps in L2, in units of the box's width and times
        the number of values of an image.
      lr_decay: what it is multiplied by, `decays` times in all, in [0, 1].
      decays: how often, at even distances; at least 1; static.
      momentum: weight of the normals of the steps before, in [0, 1].
      overshoot: how far a step goes to the plane from where the image is classified
        rightly, in units of the way; from beyond it, 2 less so many. In [1, 2].
      targeted: look for the class `y` instead. Noise is seldom of a certain class: give
        `x_init`.
      x_init: misclassified images `[B, H, W, C]` to start from in place of noise.
      norm: 'linf', 'l2', 'l1' or 'l0' (the number of values that change).

    Reference:
      Brendel, Rauber, Kümmerer, Ustyuzhaninov, Bethge: Accurate, reliable and fast
      robustness evaluation, NeurIPS 2019, arXiv 1907.01003, section 3.
    """
    method = BrendelBethge(
        steps,
        lr=lr,
        lr_decay=lr_decay,
        decays=decays,
        momentum=momentum,
        overshoot=overshoot,
    )
    given = {"x_init": x_init, "loss": "margin"}
    return iterate(method, logits_fn, x, y, eps, **given, **options)
