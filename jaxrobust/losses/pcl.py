"""Prototype conformity loss: distances of features to learned class centres.

Mustafa et al., "Adversarial Defense by Restricting the Hidden Space of Deep Neural
Networks", ICCV 2019, arXiv 1904.00887, equation 6, with the squared distances and the
separate centres per term of the released code.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust.array_types import Labels, PerExample, Scalar
from jaxrobust.losses import _checks

LOW, HIGH = 1e-12, 1e12

Vectors = Float[Array, "B D"]
Centers = Float[Array, "C D"]


def proximity(features: Vectors, y: Labels, centers: Centers) -> PerExample:
    """Returns ||h - w_y||^2, the squared distance to the centre of the own class [B].

    Clamped to [1e-12, 1e12]; where it is, the gradient is 0.

    Args:
      features: h `[B, D]`.
      y: labels `[B]`.
      centers: w `[C, D]`, one per class.

    Raises:
      ValueError: for arrays of other shapes, or a label without a centre.
      TypeError: unless features and centres are floating and labels integers.
    """
    features, centers = _check(features, centers)
    _check_labels(features, y, centers)
    return _clamp(jnp.sum(jnp.square(features - centers[y]), axis=-1))


def contrastive_proximity(features: Vectors, y: Labels, centers: Centers) -> PerExample:
    """Returns the mean of ||h - v_j||^2 over the C - 1 wrong classes j [B].

    The objective subtracts it: features move away from the centres of other classes.

    Args:
      features: h `[B, D]`.
      y: labels `[B]`.
      centers: v `[C, D]`, in the release a table apart from that of `proximity`.

    Raises:
      ValueError: for arrays of other shapes, fewer than two classes, or a label without
        a centre.
      TypeError: unless features and centres are floating and labels integers.
    """
    features, centers = _check(features, centers, least=2)
    _check_labels(features, y, centers)
    count = centers.shape[0]
    wrong = ~_checks.is_class(y, count)
    distances = center_distances(features, centers)
    return jnp.sum(jnp.where(wrong, distances, 0), axis=-1) / (count - 1)


def center_separation(centers: Centers) -> Scalar:
    """Returns the mean of ||w_i - w_j||^2 over all pairs of different classes.

    The paper's last term of equation 6, which the released code lacks; the objective
    subtracts it, so that the centres move apart.

    Args:
      centers: w `[C, D]`.

    Raises:
      ValueError: unless centres are `[C, D]` of at least two classes.
      TypeError: unless they are floating.
    """
    _, centers = _check(centers, centers, least=2)
    count = centers.shape[0]
    distances = center_distances(centers, centers)
    different = ~jnp.eye(count, dtype=bool)
    return jnp.sum(jnp.where(different, distances, 0)) / (count * (count - 1))


def center_distances(features: Vectors, centers: Centers) -> Float[Array, "B C"]:
    """Returns the squared distance of every feature vector to every centre.

    Clamped as in `proximity`. Raises as `proximity` does.
    """
    features, centers = _check(features, centers)
    product = jnp.matmul(features, centers.T, precision=jax.lax.Precision.HIGHEST)
    squares = [jnp.sum(jnp.square(a), axis=-1) for a in (features, centers)]
    return _clamp(squares[0][:, None] + squares[1][None] - 2 * product)


def _clamp(distances: Array) -> Array:
    return jnp.clip(distances, LOW, HIGH)


def _check(features: Any, centers: Any, least: int = 1) -> tuple[Vectors, Centers]:
    """Raises unless both are rows of floats of one length; widens to float32."""
    for name, rows, size in (("features", features, "B"), ("centers", centers, "C")):
        dtype = getattr(rows, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"`{name}` must be a floating array [{size}, D], got "
                f"{dtype or type(rows).__name__}."
            )
        if rows.ndim != 2:
            raise ValueError(
                f"`{name}` must have shape [{size}, D], got {rows.shape}; flatten "
                "feature maps, features.reshape(len(features), -1)."
            )
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


def _check_labels(features: Vectors, y: Any, centers: Centers) -> None:
    """Raises unless every row has a label, and every label that is known a centre."""
    _checks.check_integers(y, "y", features.shape[0], rows="features")
    values = _checks.concrete(y)
    if values is None or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= centers.shape[0]:
        raise ValueError(
            f"`y` holds labels from {low} to {high}, but `centers` has rows for "
            f"{centers.shape[0]} classes: labels must be in "
            f"[0, {centers.shape[0] - 1}]."
        )
