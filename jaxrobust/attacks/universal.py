"""One perturbation that fools a model on most images."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import losses, threat
from jaxrobust._checks import (
    NORMS,
    Range,
    check_bounds,
    check_count,
    check_images,
    check_norm,
    check_one_radius,
)
from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks._objective import Loss
from jaxrobust.attacks._universal import (
    AddedBall,
    Many,
    MeanAscent,
    StepsSeen,
    UniversalStep,
    check_added,
    many,
)
from jaxrobust.attacks.deepfool import deepfool

Perturbation = Float[Array, "H W C"]


@dataclasses.dataclass(frozen=True)
class _Added(MeanAscent):
    """MeanAscent on what is added to images."""

    def apply(self, x: Images, value: jax.Array, keys: Key) -> Images:
        """Adds it, into the box."""
        del keys
        return jnp.clip(x + value, *self.box)


@dataclasses.dataclass(frozen=True)
class _Uap(UniversalStep):
    """One image: adds the way to its nearest mistake."""

    steps: int
    overshoot: float

    def step(
        self, now: Many, ball: AddedBall, i: jax.Array, value: jax.Array
    ) -> tuple[jax.Array, StepsSeen]:
        """Goes the way of DeepFool, and back into the ball."""
        count = len(now.x)
        order_key = jax.random.fold_in(now.key, i // count)
        own = jax.random.permutation(order_key, count)[i % count][None]
        start = jnp.clip(now.x[own] + value, *self.box)
        # One that is misclassified already stays where it is.
        end = deepfool(
            now.logits, start, now.y[own], norm=self.norm, steps=self.steps,
            overshoot=self.overshoot, bounds=self.box,
        )  # fmt: skip
        logits = now.logits(start)
        right = jnp.argmax(losses.comparable(logits), axis=1) == now.y[own]
        still = right.all() & jnp.all(end == start)
        ahead = threat.project(
            value + (end - start), ball.centre, eps=ball.eps, norm=self.norm,
            bounds=ball.bounds,
        )  # fmt: skip
        return ahead, StepsSeen.at(logits, still)


def perturbed(
    x: Images, perturbation: Perturbation, *, bounds: Bounds = (0.0, 1.0)
) -> Images:
    """Adds one perturbation `[H, W, C]` to all images `[B, H, W, C]`, into the box.

    Raises:
      ValueError, TypeError: for images that are none, and a perturbation of another
        shape or with NaN.
    """
    check_bounds(bounds)
    check_images(x, flat=True)
    check_added("perturbation", perturbation, x.shape[1:])
    return jnp.clip(x + perturbation[None].astype(x.dtype), *bounds)


def universal(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key,
    eps: Scalar,
    norm: Norm = "linf",
    steps: int = 500,
    step_size: Scalar | None = None,
    batch: int = 32,
    loss: Loss = "margin",
    limit: float | None = None,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> Perturbation:
    """One perturbation for all images, by stochastic ascent (Shafahi et al. 2020).

    Each step takes the gradient of the mean loss of a draw of images, each image's loss
    cut at `limit`, goes along the steepest direction of the norm, and back into the
    ball. It is made on some images (of the training set) and judged on others, by
    `perturbed`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 2.)], 1)
    >>> x, y = jnp.full((8, 2, 2, 1), 0.6), jnp.zeros(8, jnp.int32)
    >>> v = attacks.universal(logits_fn, x, y, key=jax.random.key(0), eps=0.2, batch=4,
    ...     steps=4)
    >>> round(float(v.max()), 3), round(float(attacks.perturbed(x, v).max()), 3)
    (-0.2, 0.4)

    Args:
      logits_fn: `x -> logits [B, K]`, pure, without randomness.
      x: images `[N, H, W, C]`, floating, inside `bounds`.
      y: labels `[N]`; where `targeted` the classes to make.
      key: one key, of the draws.
      eps: radius of the perturbation in its norm, one number; may be traced.
      norm: 'linf', 'l2' or 'l1'.
      steps: at least 0; static.
      step_size: length of a step; 10 eps / steps by default.
      batch: images per step, drawn without replacement; all where there are fewer;
        static.
      loss: 'ce', 'margin', 'dlr' or a function (logits, y) -> `[B]`. The paper's is
        'ce', which vanishes where logits are large.
      limit: of an image's loss, beyond which it counts no more. By default 0 of the
        margin, where the image is misclassified, and 9 of 'ce', the paper's beta;
        `math.inf`, that of other losses, is none.
      targeted: descend the loss towards `y`.
      bounds: lowest and highest value of an image, finite.

    Returns:
      `[H, W, C]`, in the ball; no gradient flows.

    Raises:
      ValueError, TypeError: as the attacks, naming the argument.

    Reference:
      Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein: Universal adversarial training,
      AAAI 2020, arXiv 1811.11304, algorithm 2.
    """
    check_count("batch", batch, 1)
    check_count("steps", steps, 0)
    posed = many(logits_fn, x, y, key, bounds, batch, flat=True)
    batch = min(batch, len(posed.problem.x))
    ball = _ball(posed.problem, eps, norm, bounds, step_size, steps)
    return posed.run(
        _Added(norm, _box(bounds), loss, batch, limit, targeted), ball, steps
    )[0]


def uap(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key,
    eps: Scalar,
    norm: Norm = "linf",
    passes: int = 5,
    steps: int = 10,
    overshoot: Annotated[float, Range(0, 100)] = 0.02,
    bounds: Bounds = (0.0, 1.0),
) -> Perturbation:
    """Universal adversarial perturbation (Moosavi-Dezfooli et al. 2017, algorithm 1).

    Goes through the images in a new order each time: where the perturbation does not
    fool the model on an image yet, `deepfool`'s way from there to the nearest mistake
    is added, and the sum goes back into the ball. The paper ends at a rate of fooled
    images; here all `passes` are made.

    Args:
      logits_fn: `x -> logits [B, K]`, pure, without randomness.
      x: images `[N, H, W, C]`, floating, inside `bounds`.
      y: labels `[N]`; those of the paper are what the model says of the images.
      key: one key, of the orders.
      eps: radius of the perturbation in its norm, one number; may be traced.
      norm: 'linf' or 'l2'.
      passes: through the images, at least 0; static.
      steps: of `deepfool`, for each image; static.
      overshoot: of `deepfool`.
      bounds: lowest and highest value of an image, finite.

    Returns:
      `[H, W, C]`, in the ball; no gradient flows.

    Raises:
      ValueError, TypeError: as the attacks, naming the argument.

    Reference:
      Moosavi-Dezfooli, Fawzi, Fawzi, Frossard: Universal adversarial perturbations,
      CVPR 2017, arXiv 1610.08401.
    """
    check_count("passes", passes, 0)
    posed = many(logits_fn, x, y, key, bounds, 1, flat=True)
    check_norm(norm, ("linf", "l2"))
    ball = _ball(posed.problem, eps, norm, bounds)
    rule = _Uap(norm, _box(bounds), steps, overshoot)
    return posed.run(rule, ball, passes * len(posed.problem.x))[0]


def _ball(
    problem: Many,
    eps: Any,
    norm: Any,
    box: Bounds,
    step_size: Any = None,
    steps: int = 1,
) -> AddedBall:
    """The ball of a perturbation, around 0, and no wider than the box is."""
    check_norm(norm, NORMS)
    check_one_radius("eps", eps)
    if step_size is None:
        step_size = 10 * eps / max(steps, 1)
    check_one_radius("step_size", step_size)
    width = box[1] - box[0]
    centre = jnp.zeros_like(problem.x[:1])
    return AddedBall(centre, eps, (-width, width), step_size)


def _box(bounds: Bounds) -> Bounds:
    """Bounds as plain numbers."""
    return float(bounds[0]), float(bounds[1])
