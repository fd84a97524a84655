"""Training batches: an order per epoch from the seed; the position is the global step.

Small sets live on the devices; those too big are read, decoded and sent by grain.
"""

import collections
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from grain.multiprocessing import MultiprocessingOptions
from jax.sharding import Mesh
from jaxtyping import Array
from numpy.typing import NDArray

from jaxrobust import data, parallel

FEEDS = ("auto", "resident", "stream")
# Of uint8 training images that `auto` keeps on every device: an eighth of the 16 GB of
# the smallest accelerators. Tiny ImageNet (1.2 GB) stays; ImageNet streams.
RESIDENT_BYTES = 2 << 30
# Images that one thread decodes at a time: enough that grain's own work per element
# does not count, few enough that all threads work on the batch that is needed next.
_CHUNK = 64
# Batches read ahead, so that a slow read or a validation does not stop the devices ...
_READ_AHEAD = 4
# ... and sent ahead: the next one's transfer runs beside the step.
_SENT_AHEAD = 2


def streams(feed: str, nbytes: int) -> bool:
    """Says whether `data.feed` streams a set of so many bytes of uint8 images."""
    return feed == "stream" or (feed == "auto" and nbytes > RESIDENT_BYTES)


class Blend(NamedTuple):
    """The last `examples` of a set are extra; each batch has `rows` of them."""

    examples: int
    rows: int


ALL_OWN = Blend(0, 0)
# Keeps the places of extra rows apart from the orders of epochs, whose seeds are alike.
_PLACES = 1


# An epoch and the next, while reading runs ahead; of extra images too.
@functools.lru_cache(maxsize=4)
def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the examples in an epoch: a function of its arguments."""
    order = np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)
    order.setflags(write=False)
    return order


def step_indices(
    size: int, batch_size: int, seed: int, step: int, blend: Blend = ALL_OWN
) -> np.ndarray:
    """Returns the examples of a step, int32 [B]; an epoch's last part is dropped.

    Of `size` examples; steps count from 0 on, over all epochs. Extra examples have
    epochs of their own, and lie among the others at random: what takes neighbours
    (MixUp) or a part of the batch meets both kinds.
    """
    if blend.rows:
        own = size - blend.examples
        rows = step_indices(own, batch_size - blend.rows, seed, step)
        extra = step_indices(blend.examples, blend.rows, seed, step)
        order = np.random.default_rng([seed, step, _PLACES]).permutation(batch_size)
        return np.concatenate([rows, own + extra])[order]
    epoch, place = divmod(step, size // batch_size)
    order = epoch_order(size, seed, epoch)
    return order[place * batch_size : (place + 1) * batch_size]


class ResidentFeed:
    """A data set that lives on the devices as uint8."""

    def __init__(
        self,
        source: data.Source | data.Joined,
        mesh: Mesh,
        *,
        batch_size: int,
        seed: int,
        blend: Blend = ALL_OWN,
    ) -> None:
        """Copies the images of `source` to every device of `mesh`.

        A step has `batch_size` of them, a multiple of the devices; `blend` says how
        many of these are extra ones.
        """
        self._mesh, dataset = mesh, source.load()
        self._of_step = functools.partial(
            step_indices, len(dataset), batch_size, seed, blend=blend
        )
        self._arrays = parallel.replicate(
            mesh, {"image": dataset.images, "label": dataset.labels}
        )
        self._gather = jax.jit(
            _gather,
            in_shardings=(parallel.replicated(mesh), parallel.by_batch(mesh)),
            out_shardings=parallel.by_batch(mesh),
        )

    def batches(self, start: int, stop: int) -> Iterator[dict[str, Array]]:
        """Yields the batches of steps `start` to `stop`.

        Each holds `image` uint8 [B, H, W, C], `label` int32 [B] and `index` int32 [B],
        the examples' places in the data, split over the devices.
        """
        for step in range(start, stop):
            index = parallel.put_batch(self._mesh, self._of_step(step))
            yield self._gather(self._arrays, index)

    def close(self) -> None:
        """Does nothing: nothing runs ahead."""


def _gather(arrays: dict[str, Array], index: Array) -> dict[str, Array]:
    rows = {k: jnp.take(v, index, axis=0, mode="clip") for k, v in arrays.items()}
    return {**rows, "index": index}


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """Reads a part of a step's own rows; goes to grain's threads or processes."""

    source: data.Source | data.Joined
    batch_size: int
    seed: int
    own: NDArray[np.int64]
    blend: Blend = ALL_OWN

    @property
    def parts(self) -> int:
        """Into how many parts a step's rows are cut."""
        return -(-len(self.own) // _CHUNK)

    def indices(self, step: int) -> np.ndarray:
        """The examples of a step that this process reads."""
        size = len(self.source)
        rows = step_indices(size, self.batch_size, self.seed, step, self.blend)
        return rows[self.own]

    def __call__(self, position: int) -> NDArray[np.uint8]:
        step, part = divmod(position, self.parts)
        indices = self.indices(step)[part * _CHUNK : (part + 1) * _CHUNK]
        return self.source.read(indices)


class StreamFeed:
    """A data set whose rows are read as the steps need them; there is no state to save.

    The batches are those of `ResidentFeed`: the order of an epoch is a function of
    seed and epoch, a step takes its slice of it, and this process reads the rows that
    its devices hold.
    """

    def __init__(
        self,
        source: data.Source | data.Joined,
        mesh: Mesh,
        *,
        batch_size: int,
        seed: int,
        blend: Blend = ALL_OWN,
        threads: int | None = None,
        workers: int = 0,
    ) -> None:
        """Reads nothing but the labels.

        By default one thread per CPU core, 16 at most, reads and decodes, which leaves
        Python's lock to the others. `workers` are processes that do it instead, with so
        many threads each. They take seconds to start and on two cores read fewer images
        than threads; they may pay where Python's lock bounds many cores. Grain asks
        that absl's flags have been parsed, as `absl.app` does.
        """
        self._mesh, self._batch_size = mesh, batch_size
        self._labels = source.labels
        own = parallel.own_rows(mesh, batch_size)
        self._reader = _Reader(source, batch_size, seed, own, blend)
        self._threads = threads or min(os.cpu_count() or 1, 16)
        self._workers = workers
        self._running: set[grain.DatasetIterator] = set()

    def batches(self, start: int, stop: int) -> Iterator[dict[str, Array]]:
        """Yields the batches of steps `start` to `stop`; see `ResidentFeed.batches`.

        Raises:
          ValueError: a damaged record or an image that cannot be read, by name.
        """
        sent: collections.deque[dict[str, Array]] = collections.deque()
        with self._read(start, stop) as read:
            for step, images in enumerate(read, start):
                index = self._reader.indices(step)
                rows = {"image": images, "label": self._labels[index], "index": index}
                sent.append(parallel.from_rows(self._mesh, rows, self._batch_size))
                if len(sent) > _SENT_AHEAD:
                    yield sent.popleft()
            yield from sent

    def close(self) -> None:
        """Ends the threads and processes of every `batches` that is not at its end."""
        for read in list(self._running):
            read.close()

    @contextlib.contextmanager
    def _read(self, start: int, stop: int) -> Iterator[Iterator[NDArray[np.uint8]]]:
        """Holds the running reader of this process's rows of each step."""
        parts = self._reader.parts
        per_worker = -(-_READ_AHEAD * parts // max(self._workers, 1))
        rows = grain.MapDataset.range(start * parts, stop * parts).map(self._reader)
        read = rows.to_iter_dataset(
            grain.ReadOptions(self._threads, max(per_worker, self._threads))
        )
        if self._workers:
            # Parts come back in their order; batches are put together afterwards, so
            # that the number of processes does not change them.
            read = read.mp_prefetch(MultiprocessingOptions(self._workers))
        iterator = iter(read.batch(parts, batch_fn=np.concatenate))
        self._running.add(iterator)
        try:
            yield iterator
        finally:
            iterator.close()
            self._running.discard(iterator)


Feed = ResidentFeed | StreamFeed
