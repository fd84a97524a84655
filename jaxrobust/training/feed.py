"""Training batches: an order per epoch from the seed, rows gathered on the device."""

import functools
from collections.abc import Iterator
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from jaxrobust import parallel
from jaxrobust.data import Source

FEEDS = ("auto", "resident", "stream")
# Of uint8 training images that `auto` keeps on every device: an eighth of the 16 GB of
# the smallest accelerators. Tiny ImageNet (1.2 GB) stays; ImageNet streams.
RESIDENT_BYTES = 2 << 30


class Feed(Protocol):
    """Where training batches come from; the position is the global step."""

    def batches(self, start: int, stop: int) -> Iterator[dict[str, Array]]:
        """Yields the batches of steps `start` to `stop`.

        Each holds `image` uint8 [B, H, W, C], `label` int32 [B] and `index` int32 [B],
        the examples' places in the data, split over the devices.
        """
        ...

    def close(self) -> None:
        """Ends what reads ahead, if anything does."""
        ...


def streams(feed: str, nbytes: int) -> bool:
    """Says whether `data.feed` streams a set of so many bytes of uint8 images."""
    return feed == "stream" or (feed == "auto" and nbytes > RESIDENT_BYTES)


@functools.lru_cache(maxsize=2)  # an epoch and the next, while reading runs ahead
def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the examples in an epoch: a function of its arguments."""
    order = np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)
    order.setflags(write=False)
    return order


def step_indices(size: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Returns the examples of a step, int32 [B]; an epoch's last part is dropped.

    Args:
      size: number of examples.
      batch_size: examples per step.
      seed: of the run.
      step: from 0 on, over all epochs.
    """
    epoch, place = divmod(step, size // batch_size)
    order = epoch_order(size, seed, epoch)
    return order[place * batch_size : (place + 1) * batch_size]


class ResidentFeed:
    """A data set that lives on the devices as uint8."""

    def __init__(
        self, source: Source, mesh: Mesh, *, batch_size: int, seed: int
    ) -> None:
        """Copies the images of `source` to every device of `mesh`.

        Args:
          source: the training set, of `batch_size` images at least.
          mesh: the devices.
          batch_size: examples per step, a multiple of the devices.
          seed: of the run.
        """
        self._mesh, dataset = mesh, source.load()
        self._of_step = functools.partial(step_indices, len(dataset), batch_size, seed)
        self._arrays = parallel.replicate(
            mesh, {"image": dataset.images, "label": dataset.labels}
        )
        self._gather = jax.jit(
            _gather,
            in_shardings=(parallel.replicated(mesh), parallel.by_batch(mesh)),
            out_shardings=parallel.by_batch(mesh),
        )

    def batches(self, start: int, stop: int) -> Iterator[dict[str, Array]]:
        """Yields the batches of steps `start` to `stop`; see `Feed`."""
        for step in range(start, stop):
            index = parallel.put_batch(self._mesh, self._of_step(step))
            yield self._gather(self._arrays, index)

    def close(self) -> None:
        """Does nothing: nothing runs ahead."""


def _gather(arrays: dict[str, Array], index: Array) -> dict[str, Array]:
    rows = {k: jnp.take(v, index, axis=0, mode="clip") for k, v in arrays.items()}
    return {**rows, "index": index}
