"""Uniform noise in the ball: the weakest attack, and the `ball` augmentation."""

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust._checks import (
    check_bounds,
    check_count,
    check_norm,
    check_radius,
    check_shape,
    check_values,
)
from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks import _checks
from jaxrobust.attacks._ascent import Ascent
from jaxrobust.attacks._eager import in_transformation, iterate
from jaxrobust.attacks._objective import fold
from jaxrobust.attacks._options import BallOptions, PositiveInt, shares


def uniform_noise(
    x: Images,
    *,
    key: Key,
    eps: Scalar,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    draws: int = 1,
) -> Images:
    """Draws points uniformly from the eps-ball around each image, into the box.

    Args:
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      key: one key or one per example; draw d > 0 uses fold_in(key, d).
      eps: radius of the ball, of the shapes that `pgd` takes; may be traced.
      norm: 'linf', 'l2' or 'l1'.
      bounds: lowest and highest value of an image.
      draws: points per image.

    Returns:
      `[B * draws, H, W, C]` in the order of `jnp.repeat(x, draws, axis=0)`, so labels
      repeat the same way.
    """
    check_norm(norm)
    check_bounds(bounds)
    check_radius("eps", eps)
    _checks.check_images(x)
    check_shape("eps", eps, x.shape, norm)
    check_count("draws", draws, 1)
    _checks.need_key(key, "uniform_noise")
    keys = threat.row_keys(key, x.shape[0])
    bounds = (bounds[0], bounds[1])  # a list cannot be hashed
    if in_transformation(x, keys, eps):
        return _draw(x, keys, eps, norm, bounds, draws)
    x = jnp.asarray(x)
    eps = jnp.asarray(eps, threat.wide_dtype(x.dtype))
    check_values(x, bounds)
    return _draw_compiled(x, keys, eps, norm, bounds, draws)


@shares(BallOptions)
def worst_of_noise(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    draws: PositiveInt = 1,
    **options: Unpack[BallOptions],
) -> Images:
    """Keeps, per example, the worst of `draws` points of `uniform_noise`.

    What `attacks.get('uniform_noise')` and `attacks.get('ball')` run: a misclassified
    point beats one that is not, then the higher loss.

    Args:
      draws: points per image.
    """
    method = Ascent(0, draws, random_start=True)
    return iterate(method, logits_fn, x, y, eps, **options)


def _draw(
    x: Images, keys: Key, eps: Scalar, norm: Norm, bounds: Bounds, draws: int
) -> Images:
    each = [
        threat.sample(x, key=k, eps=eps, norm=norm, bounds=bounds)
        for k in [keys, *(fold(keys, d) for d in range(1, draws))]
    ]
    return jax.lax.stop_gradient(jnp.stack(each, axis=1).reshape(-1, *x.shape[1:]))


_draw_compiled = jax.jit(_draw, static_argnums=(3, 4, 5))
