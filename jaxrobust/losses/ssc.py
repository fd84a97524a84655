"""Spatial structure of a batch in embedding space (SSC-DM) and its same-class kin."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust._checks import check_choice, check_labels
from jaxrobust.array_types import Labels, Scalar
from jaxrobust.losses import _checks

Embedding = Float[Array, "B D"]
Matrix = Float[Array, "B B"]


def spatial_structure(
    h: Embedding,
    h_adv: Embedding,
    distance: str = "euc",
    *,
    y: Labels | None = None,
    compare: str = "frobenius",
) -> Scalar:
    """How far an attack moves the geometry of a batch.

        ||P - P_adv||_F / B,    P_ij = softmax over j of distance(h_i, h_j)

    The zero diagonal is in the softmax, and a larger distance is a larger weight. The
    gradient flows into both embeddings; it is 0, not NaN, for rows at distance zero and
    for identical embeddings. Computed in float32 or wider.

    Args:
      h: `[B, D]` of clean images.
      h_adv: `[B, D]` of attacked images.
      distance: `euc`, `manhattan`, or `cos`, which is cosine *similarity*.
      y: `[B]`, integers. Where given, pairs of different classes, and an example with
        itself, are struck out of P after the softmax (RCC, JunzMiao/RCCs).
      compare: `frobenius`, or `cosine`: the mean over rows i of 1 - cos(P_i, P_adv_i)
        (RCC). A row without any pair left counts 0; RCC's code counts a constant 1.

    Returns:
      A scalar, at least 0.

    Reference:
      SSC-DM, "An Effective Deep Learning Adversarial Defense Method based on Spatial
      Structural Constraints in Embedding Space", equation 4, where it is added to the
      cross-entropies.

    Example:
      >>> h, h_adv = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0]])
      >>> print(f"{losses.spatial_structure(h, h_adv):.3f}")
      0.150
      >>> print(losses.spatial_structure(h, h))
      0.0
    """
    _checks.check_logits("spatial_structure", 1, h=h, h_adv=h_adv)
    check_choice("distance", distance, DISTANCES)
    check_choice("compare", compare, COMPARISONS)
    measure, difference = DISTANCES[distance], COMPARISONS[compare]
    wide = jnp.promote_types(jnp.result_type(h, h_adv), jnp.float32)
    h, h_adv = h.astype(wide), h_adv.astype(wide)
    # Of all pairs, the zero diagonal too: as released, the nearest count least.
    p, p_adv = (jax.nn.softmax(measure(rows), axis=1) for rows in (h, h_adv))
    chex.assert_shape([p, p_adv], (len(h), len(h)))
    # Compiled apart, equal embeddings may give matrices that differ in the last bit,
    # and the norm's gradient is of length 1 however small the difference.
    p_adv = jnp.where(jnp.all(h == h_adv), p, p_adv)
    if y is not None:
        check_labels(y, len(h), row="row of `h`")
        same = (y[:, None] == y[None, :]) & ~jnp.eye(h.shape[0], dtype=bool)
        p, p_adv = jnp.where(same, p, 0), jnp.where(same, p_adv, 0)
    return difference(p, p_adv)


def _euclidean(h: Embedding) -> Matrix:
    return _norm(h[:, None] - h[None, :])


def _manhattan(h: Embedding) -> Matrix:
    return jnp.sum(jnp.abs(h[:, None] - h[None, :]), axis=-1)


def _cosine_similarity(h: Embedding) -> Matrix:
    unit = _unit(h)
    return unit @ unit.T


def _frobenius(p: Matrix, p_adv: Matrix) -> Scalar:
    return _norm((p - p_adv).ravel()) / p.shape[0]


def _rows_by_cosine(p: Matrix, p_adv: Matrix) -> Scalar:
    cosine = jnp.sum(_unit(p) * _unit(p_adv), axis=1)
    return jnp.mean(jnp.where(jnp.any(p > 0, axis=1), 1 - cosine, 0))


def _norm(x: Float[Array, "... D"]) -> Float[Array, "..."]:
    """L2 norm over the last axis, with gradient 0 at zero (jnp's is NaN)."""
    square = jnp.sum(x**2, axis=-1)
    # The root of a 1 in its place: infinity times 0, the gradient at 0, is NaN.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _unit(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Rows at length 1; a zero row stays zero, with gradient 0."""
    length = _norm(x)[:, None]
    return jnp.where(length > 0, x / jnp.where(length > 0, length, 1), 0)


DISTANCES = {"euc": _euclidean, "manhattan": _manhattan, "cos": _cosine_similarity}
COMPARISONS = {"frobenius": _frobenius, "cosine": _rows_by_cosine}
