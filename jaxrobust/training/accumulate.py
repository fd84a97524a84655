"""A phase's gradient over a batch, at once or part after part."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxrobust.array_types import Key, PyTree
from jaxrobust.defenses.base import Batch, ModelState, Params, Phase


class PhaseGradient(NamedTuple):
    """What a phase finds on a batch; the metrics, scalars, are its own and `loss`."""

    grads: PyTree
    model_state: ModelState
    metrics: dict[str, Any]
    handed: dict[str, Array]


def check_parts(mesh: Mesh, batch_size: int, parts: int) -> None:
    """Raises ValueError for a batch that parts and devices cannot share evenly."""
    if parts < 1:
        raise ValueError(f"`train.accumulate` must be at least 1, got {parts}.")
    if batch_size < 1 or batch_size % (parts * mesh.size):
        each = f"{parts * mesh.size}: `train.accumulate` {parts} x" if parts > 1 else ""
        raise ValueError(
            f"`train.batch_size` must be a positive multiple of {each or 'the'} "
            f"{mesh.size} devices, got {batch_size}."
        )


def phase_gradient(
    phase: Phase,
    parts: int,
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: Key,
    step: Array,
) -> PhaseGradient:
    """Prepares a phase's batch and differentiates its loss, in `parts` parts.

    Part j is the rows j, j + parts, j + 2 parts ... of the batch, so that each device
    keeps its own rows. The parts run one after the other in a loop: what a backward
    pass keeps is that of one part. Gradients and metrics are means over the parts; each
    part has a key of its own and starts from the running statistics that the one before
    left, as a smaller batch would. Whatever a loss takes from the batch as a whole
    (BatchNorm, pairs of examples, one radius for all, a condition) it takes from a
    part.

    The arguments after `parts`, which divides the rows, are those of `Phase.loss`.

    Raises:
      ValueError: in parts, for an array in the batch, prepared or handed on that does
        not have a row per example.
    """

    def whole(stats: ModelState, rows: Batch, own_key: Key) -> PhaseGradient:
        prepared: dict[str, Array] = {}
        if phase.prepare is not None:
            fixed = jax.lax.stop_gradient(params)
            prepared = dict(phase.prepare(fixed, stats, rows, own_key, step))
        gradient = jax.value_and_grad(phase.loss, has_aux=True)
        (loss, (moved, metrics, *carry)), grads = gradient(
            params, stats, {**rows, **prepared}, own_key, step
        )
        handed = {**prepared, **(carry[0] if carry else {})}
        return PhaseGradient(grads, moved, {"loss": loss, **metrics}, handed)

    if parts == 1:
        return whole(model_state, batch, key)

    def part(carry: Any, this: tuple[Array, Batch]) -> tuple[Any, Any]:
        (total, moved), (number, rows) = carry, this
        found = whole(moved, rows, jax.random.fold_in(key, number))
        total = jax.tree.map(jnp.add, total, found.grads)
        return (total, found.model_state), (found.metrics, found.handed)

    zeros = jax.tree.map(jnp.zeros_like, params)
    rows = {name: _split(name, array, parts) for name, array in batch.items()}
    (total, model_state), (metrics, handed) = jax.lax.scan(
        part, (zeros, model_state), (jnp.arange(parts), rows)
    )
    size = batch["label"].shape[0]
    return PhaseGradient(
        optax.tree.scale(1 / parts, total),
        model_state,
        jax.tree.map(lambda values: jnp.mean(values, 0), metrics),
        {name: _join(name, array, size) for name, array in handed.items()},
    )


def _split(name: str, array: Array, parts: int) -> Array:
    """Turns `[B, ...]` into `[parts, B / parts, ...]`, every `parts`-th row together.

    The rows of the new second axis lie on the devices that had them.
    """
    if not array.ndim or array.shape[0] % parts:
        raise ValueError(_NO_ROWS.format(name, array.shape))
    return jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)


def _join(name: str, array: Array, size: int) -> Array:
    """Puts `[parts, B / parts, ...]` back in the order of the batch."""
    if array.ndim < 2 or array.shape[0] * array.shape[1] != size:
        raise ValueError(_NO_ROWS.format(name, array.shape[1:]))
    return jnp.moveaxis(array, 0, 1).reshape(size, *array.shape[2:])


_NO_ROWS = (
    "`train.accumulate` needs a row per example in all that phases share, but {!r} "
    "has shape {}; set it to 1."
)
