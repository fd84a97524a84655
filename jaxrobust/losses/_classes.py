"""Which class a label names, for labels of any integer dtype."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrobust.array_types import Labels, Logits


def is_class(y: Labels, classes: int) -> Bool[Array, "B K"]:
    """Says which of `classes` classes each row is of."""
    return (
        jnp.arange(classes, dtype=jnp.int32)[None] == jnp.asarray(y, jnp.int32)[:, None]
    )


def without(logits: Logits, y: Labels) -> Logits:
    """The logits of all classes but y; that one has minus infinity."""
    return jnp.where(is_class(y, logits.shape[1]), -jnp.inf, logits)


def pick(rows: Float[Array, "B K"], y: Labels) -> Float[Array, " B"]:
    """Takes the value of each row's class: rows[i, y_i], NaN where y_i is no class."""
    y = known(y, rows.shape[1])[:, None]
    # A gather `rows[arange, y]` fails on a mesh with explicit axes; this one does not.
    return jnp.take_along_axis(rows, y, axis=1, mode="fill").squeeze(1)


def known(y: Labels, classes: int) -> Labels:
    """Labels as int32; what is no class gets the number after the last one.

    Gathers that fill give NaN there, so that a wrong label shows under `jit` too, where
    no error can be raised; negative ones would count from the end.
    """
    y = jnp.asarray(y, jnp.int32)
    return jnp.where((y >= 0) & (y < classes), y, classes)
