"""One perturbation that fools a model on most images."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import threat
from jaxrobust._checks import (
    NORMS,
    Range,
    check_bounds,
    check_count,
    check_norm,
    check_number,
    check_one_radius,
)
from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks._objective import Loss
from jaxrobust.attacks._universal import Limits, Many, ascend, many
from jaxrobust.attacks.deepfool import deepfool

Perturbation = Float[Array, "H W C"]

_LIMIT = Range(0, 1e6, above=True)


def perturbed(
    x: Images, perturbation: Perturbation, *, bounds: Bounds = (0.0, 1.0)
) -> Images:
    """Adds one perturbation `[H, W, C]` to all images `[B, H, W, C]`, into the box."""
    check_bounds(bounds)
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
    loss: Loss = "ce",
    limit: float | None = 9.0,
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
      batch: images per step, drawn without replacement; static.
      loss: 'ce', 'margin', 'dlr' or a function (logits, y) -> `[B]`.
      limit: of an image's loss, as the paper cuts it (its beta is 9); None: none.
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
    if limit is not None:
        check_number("limit", limit, _LIMIT)
    problem = many(logits_fn, x, y, key, bounds, batch)
    ball = _ball(eps, norm, bounds, steps, step_size)
    made = ascend(
        problem, lambda x, v, _: jnp.clip(x + v, *bounds), _zero(problem), ball, loss,
        steps=steps, batch=batch, limit=limit, targeted=targeted,
    )  # fmt: skip
    return made[0]


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
    problem = many(logits_fn, x, y, key, bounds, 1)
    check_norm(norm, ("linf", "l2"))
    ball = _ball(eps, norm, bounds, 1, None)

    def step(now: Many, i: jax.Array, v: jax.Array) -> jax.Array:
        order = jax.random.permutation(
            jax.random.fold_in(now.key, i // len(now.x)), len(now.x)
        )
        own = order[i % len(now.x)][None]
        start = jnp.clip(now.x[own] + v, *bounds)
        model = lambda z: now.logits_fn(now.arrays, z)  # noqa: E731
        # One that is misclassified already stays where it is.
        end = deepfool(
            model, start, now.y[own], norm=norm, steps=steps, overshoot=overshoot,
            bounds=bounds,
        )  # fmt: skip
        return threat.project(
            v + (end - start), 0 * v, eps=ball.eps, norm=norm, bounds=ball.bounds
        )

    made = problem.repeat(passes * len(problem.x), step, _zero(problem))
    return jax.lax.stop_gradient(made[0])


def _zero(problem: Many) -> jax.Array:
    return jnp.zeros_like(problem.x[:1])


def _ball(eps: Any, norm: Any, bounds: Bounds, steps: int, step_size: Any) -> Limits:
    """The ball of a perturbation, around 0, and no wider than the box is."""
    check_norm(norm, NORMS)
    check_one_radius("eps", eps)
    if step_size is None:
        step_size = 10 * eps / max(steps, 1)
    check_one_radius("step_size", step_size)
    width = bounds[1] - bounds[0]
    return Limits(eps, norm, (-width, width), step_size)
