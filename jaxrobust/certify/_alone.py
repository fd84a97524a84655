"""That a network treats each row by itself, which all proofs rest on."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxrobust.array_types import Images, LogitsFn
from jaxrobust.attacks import programs

# Of logits, by how much they may differ in another batch; far above rounding.
_OTHER = 1e-2


def check_logits(logits_fn: LogitsFn, x: Images) -> int:
    """Returns the number of classes; ValueError unless logits are `[B, K]`, K > 1."""
    return _classes(jax.eval_shape(logits_fn, _one_row(x)))


def classes_of(held: programs.Captured, x: Images) -> int:
    """Returns what `check_logits` does; a known program is not traced again."""
    return _classes(programs.jitted(held).eval_shape(held.arrays, _one_row(x)))


def _one_row(x: Images) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)


def _classes(out: Any) -> int:
    if getattr(out, "ndim", 0) != 2 or out.shape[1] < 2:
        raise ValueError(f"`logits_fn` must return logits [B, K], got {out}.")
    return out.shape[1]


def is_traced(held: programs.Captured) -> bool:
    """Whether a network holds arrays that are being differentiated, say."""
    return any(isinstance(one, Tracer) for one in held.arrays)


def bind_alone(logits_fn: LogitsFn, x: Images) -> programs.Captured:
    """Binds a network to batches of one row.

    Raises:
      ValueError: for one whose logits of a row depend on the others. The first and the
        last row are looked at, where there are numbers; proofs are of each by itself.
    """
    held = programs.bind(logits_fn, _one_row(x))
    if held.out is not None:  # of several outputs the first would be taken
        _classes(held.out)
    if len(x) < 2 or is_traced(held):
        return held
    pair = np.concatenate([x[:1], x[-1:]])
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
