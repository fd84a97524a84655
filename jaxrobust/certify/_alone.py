"""That a network treats each row by itself, which all proofs rest on."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.array_types import Images, LogitsFn
from jaxrobust.attacks import programs

# Of logits, by how much they may differ in another batch; far above rounding.
_OTHER = 1e-2


def check_logits(logits_fn: LogitsFn, x: Images) -> int:
    """Returns the number of classes; ValueError unless logits are `[B, K]`, K > 1."""
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    out = jax.eval_shape(logits_fn, one)
    if getattr(out, "ndim", 0) != 2 or out.shape[1] < 2:
        raise ValueError(f"`logits_fn` must return logits [B, K], got {out}.")
    return out.shape[1]


def bind_alone(logits_fn: LogitsFn, x: Images) -> programs.Captured:
    """Binds a network to batches of one row.

    Raises:
      ValueError: for one whose logits of a row depend on the others. The first and the
        last row are looked at; proofs are of each row by itself.
    """
    shape = x.shape[1:]
    held = programs.bind(logits_fn, jax.ShapeDtypeStruct((1, *shape), x.dtype))
    if len(x) < 2:
        return held
    pair = jnp.asarray(x)[jnp.array([0, -1])]
    two = programs.bind(logits_fn, jax.ShapeDtypeStruct(pair.shape, pair.dtype))
    together = np.asarray(programs.jitted(two)(two.arrays, pair))
    run = programs.jitted(held)
    alone = np.concatenate([run(held.arrays, row) for row in (pair[:1], pair[1:])])
    sizes = np.abs(alone[np.isfinite(alone)])
    usual = np.median(sizes) if sizes.size else 0.0
    if not np.allclose(together, alone, _OTHER, _OTHER * usual, equal_nan=True):
        raise ValueError(
            "the logits of an image depend on the others of its batch (batch "
            "statistics?): proofs are of each image by itself. Use evaluation mode."
        )
    return held
