"""The Brendel & Bethge attack: along the boundary towards the image, by gradients."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks import _fab_logits as logit
from jaxrobust.attacks._brendel_bethge_steps import nearest_in_plane
from jaxrobust.attacks._decisions import first_misclassified
from jaxrobust.attacks._descent import to_boundary
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, model_keys, watched
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

    lr: float = 1e-2
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
        # A row that has not found a mistake keeps its radius.
        decays = decays * jnp.isfinite(carry.nearest.distance)
        radius = self.lr * self.lr_decay ** decays.astype(x.dtype) * x[0].size
        return Carry(
            nearest_in_plane(problem, x, normal, gain, radius),
            normal,
            carry.nearest.or_nearer(problem, x, at.fooled),
            watched(carry.health, grad, at.logits, i),
        )

    def done(self, carry: Carry) -> jax.Array:
        """Rows whose image needs no change."""
        return carry.nearest.distance == 0


@shares(TargetOptions)
def brendel_bethge(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    steps: int = 1000,
    lr: Annotated[float, Range(0, 1e3)] = 1e-2,
    lr_decay: Annotated[float, Range(0, 1)] = 0.5,
    decays: PositiveInt = 20,
    momentum: Annotated[float, Range(0, 1)] = 0.8,
    overshoot: Annotated[float, Range(1, 2)] = 1.1,
    x_init: Images | None = None,
    **options: Unpack[TargetOptions],
) -> Images:
    """Brendel & Bethge attack (Brendel et al. 2019): along the boundary, in all norms.

    From a misclassified noise image, brought to the boundary by halvings of the
    distance. Each step takes the boundary for a plane, with a running mean of the
    margin's gradients for its normal, and goes to the point nearest to the image of
    that plane, the box, and a ball in L2 around the iterate. It is found exactly, by
    searches for the two multipliers (in L0 for the relaxed problem, whose answer may
    change a value more than is needed). Where ball and box do not reach the plane, the
    step goes as far towards it as they let it. Returns the nearest misclassified point.

    Settings are Foolbox's, by the authors. There the radius is .001 times the number of
    values times that of images in the batch: .01 here is a batch of ten, and any batch
    gives the same. A row for which no noise is misclassified, as with most targets,
    starts at the image itself, and keeps the first radius until it is misclassified.

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
      lr: the first radius of the ball, over the box's width and the number of values
        of an image. With a small one L0 ends early: a value goes back to the image in
        one step or not at all.
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
      robustness evaluation, NeurIPS 2019, arXiv 1907.01003.
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
