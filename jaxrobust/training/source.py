"""Training batches: an order per epoch from the seed, rows gathered on the device."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from jaxrobust import parallel
from jaxrobust.data import Dataset


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the examples in an epoch: a function of its arguments."""
    return np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)


def batch_indices(
    size: int, batch_size: int, seed: int, *, start: int, stop: int
) -> Iterator[np.ndarray]:
    """Yields the examples of steps `start` to `stop`; an epoch's last part is dropped.

    Args:
      size: number of examples.
      batch_size: examples per step.
      seed: of the run.
      start: first step; a resumed run starts in the middle.
      stop: step to end before.
    """
    per_epoch = size // batch_size
    order, shown = np.empty(0, np.int32), -1
    for step in range(start, stop):
        epoch, place = divmod(step, per_epoch)
        if epoch != shown:
            order, shown = epoch_order(size, seed, epoch), epoch
        yield order[place * batch_size : (place + 1) * batch_size]


class ResidentSource:
    """A data set that lives on the devices as uint8."""

    def __init__(self, dataset: Dataset, mesh: Mesh) -> None:
        """Copies `dataset` to every device of `mesh`."""
        self._mesh = mesh
        self._arrays = parallel.replicate(
            mesh, {"image": dataset.images, "label": dataset.labels}
        )
        self._gather = jax.jit(
            _gather,
            in_shardings=(parallel.replicated(mesh), parallel.by_batch(mesh)),
            out_shardings=parallel.by_batch(mesh),
        )

    def batch(self, index: np.ndarray) -> dict[str, Array]:
        """Returns `image` uint8 [B, H, W, C], `label` [B], `index` [B], split."""
        return self._gather(self._arrays, parallel.put_batch(self._mesh, index))


def _gather(arrays: dict[str, Array], index: Array) -> dict[str, Array]:
    rows = {k: jnp.take(v, index, axis=0, mode="clip") for k, v in arrays.items()}
    return {**rows, "index": index}
