"""Where features lie between the class centres of the prototype conformity loss."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import losses
from jaxrobust.array_types import Labels, PerExample


def prototype_distances(
    features: Float[Array, "B D"], y: Labels, centers: Float[Array, "C D"]
) -> tuple[PerExample, PerExample]:
    """Measures how far features are from their own and the nearest other prototype.

    Euclidean. On the features of clean and of attacked images it tells whether an
    attack moves them out of the region that the loss gave to their class: an example
    whose first number exceeds its second lies nearer to another class.

    Args:
      features: of the layer that the centres belong to, such as
        `Outputs.features['embedding']`.
      y: true labels `[B]`.
      centers: of `proximity`, for that layer: `variables['extra']['proximity'][layer]`
        of a checkpoint.

    Returns:
      Distances `[B]` to the centre of class y, and `[B]` to the nearest of the others.

    Raises:
      ValueError: for arrays of other shapes, fewer than two classes, or a label on the
        host without a centre (on a device its distance is NaN).
      TypeError: unless features and centres are floating and labels integers.
    """
    own = losses.proximity(features, y, centers)
    if centers.shape[0] < 2:
        raise ValueError(
            f"`centers` must hold at least 2 classes, got {centers.shape[0]}."
        )
    wrong = jnp.arange(centers.shape[0])[None] != y[:, None]
    distances = losses.center_distances(features, centers)
    other = jnp.min(distances, axis=-1, where=wrong, initial=jnp.inf)
    return jnp.sqrt(own), jnp.sqrt(other)
