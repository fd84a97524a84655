"""Prototype conformity loss: distances of features to learned class centres.

Mustafa et al., "Adversarial Defense by Restricting the Hidden Space of Deep Neural
Networks", ICCV 2019 (arXiv 1904.00887), equation 6, with the squared distances and the
separate centres per term of the released code. Distances are clamped to [1e-12, 1e12],
as there; where they are, the gradient is 0. Half precision is widened to float32.

Features h are `[B, D]`, labels y `[B]` in [0, C), centres w and v `[C, D]`: one per
class.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust._checks import check_floating
from jaxrobust.array_types import Labels, PerExample, Scalar
from jaxrobust.losses import _checks
from jaxrobust.losses._classes import is_class, known

LOW, HIGH = 1e-12, 1e12

Vectors = Float[Array, "B D"]
Centers = Float[Array, "C D"]


def proximity(features: Vectors, y: Labels, centers: Centers) -> PerExample:
    """Squared distance of the features to the centre of their own class.

        ||h - w_y||^2

    Returns `[B]`.

    Reference:
      Mustafa et al. 2019 (arXiv 1904.00887), equation 6, first term.

    Example:
      >>> h, w = jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 0.0], [3.0, 0.0]])
      >>> print(losses.proximity(h, jnp.array([1]), w))
      [16.]
    """
    features, centers = _check(features, centers)
    _checks.check_labels(y, len(features), len(centers), rows="features")
    # Not from `center_distances`: |h|^2 + |w|^2 - 2 h w loses the digits of features
    # that are where they should be, on their centre.
    own = jnp.take(centers, known(y, len(centers)), axis=0, mode="fill")
    chex.assert_equal_shape([features, own])
    return jnp.clip(jnp.sum(jnp.square(features - own), axis=-1), LOW, HIGH)


def contrastive_proximity(features: Vectors, y: Labels, centers: Centers) -> PerExample:
    """Mean squared distance to the centres of the other classes; it is subtracted.

        1 / (C - 1)  sum_{j != y} ||h - v_j||^2

    Returns `[B]`; C is at least 2. In the release v is a table apart from w.

    Reference:
      Mustafa et al. 2019 (arXiv 1904.00887), equation 6, the terms of other classes.

    Example:
      >>> h, v = jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 0.0], [3.0, 0.0]])
      >>> print(losses.contrastive_proximity(h, jnp.array([1]), v))
      [25.]
    """
    features, centers = _check(features, centers, least=2)
    count = len(centers)
    _checks.check_labels(y, len(features), count, rows="features")
    own = is_class(y, count)
    distances = jnp.where(own, 0, center_distances(features, centers))
    mean = jnp.sum(distances, axis=-1) / (count - 1)
    # A label that is no class would be at no centre: all of them would count.
    return jnp.where(jnp.any(own, axis=-1), mean, jnp.nan)


def center_separation(centers: Centers) -> Scalar:
    """Mean squared distance between the centres of different classes; subtracted.

        1 / (C (C - 1))  sum_{i != j} ||w_i - w_j||^2

    The paper's last term of equation 6, which the released code lacks. Returns one
    number for all of w, `[C, D]`; C is at least 2.

    Reference:
      Mustafa et al. 2019 (arXiv 1904.00887), equation 6, the terms of two centres.

    Example:
      >>> print(losses.center_separation(jnp.array([[0.0, 0.0], [3.0, 4.0]])))
      25.0
    """
    _, centers = _check(centers, centers, least=2)
    count = len(centers)
    # Not 0 as computed: squares that cancel leave rounding, and the clamp its floor.
    same = jnp.eye(count, dtype=bool)
    distances = jnp.where(same, 0, center_distances(centers, centers))
    return jnp.sum(distances) / (count * (count - 1))


def center_distances(features: Vectors, centers: Centers) -> Float[Array, "B C"]:
    """Squared distance of every feature vector to every centre.

        ||h_i - w_j||^2  =  ||h_i||^2 + ||w_j||^2 - 2 h_i w_j

    Returns `[B, C]`.

    Example:
      >>> w = jnp.array([[0.0, 0.0], [3.0, 0.0]])
      >>> print(losses.center_distances(jnp.array([[3.0, 4.0]]), w))
      [[25. 16.]]
    """
    features, centers = _check(features, centers)
    # The squares cancel, so a product in bfloat16 or TF32 would leave little of them.
    product = jnp.matmul(features, centers.T, precision=jax.lax.Precision.HIGHEST)
    ours, theirs = (jnp.sum(jnp.square(a), axis=-1) for a in (features, centers))
    return jnp.clip(ours[:, None] + theirs[None] - 2 * product, LOW, HIGH)


def _check(features: Any, centers: Any, least: int = 1) -> tuple[Vectors, Centers]:
    """Raises unless both are rows of floats of one length; widens to float32."""
    hint = "; flatten feature maps, features.reshape(len(features), -1)"
    check_floating("features", features, "[B, D]", hint)
    check_floating("centers", centers, "[C, D]", hint)
    if features.shape[1] != centers.shape[1]:
        raise ValueError(
            f"`features` of length {features.shape[1]} need `centers` of that length, "
            f"got {centers.shape[1]}."
        )
    if centers.shape[0] < least:
        raise ValueError(
            f"`centers` must hold at least {least} classes, got {centers.shape[0]}."
        )
    dtype = jnp.promote_types(jnp.result_type(features, centers), jnp.float32)
    return features.astype(dtype), centers.astype(dtype)
