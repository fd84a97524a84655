"""One mesh over the devices of the process; batches are split, all else is copied."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrobust.array_types import PyTree


def make_mesh(device_count: int | None = None) -> Mesh:
    """Returns a mesh with one axis, `data`, over the first devices.

    Args:
      device_count: how many devices to use; all of them by default.

    Raises:
      ValueError: if there are fewer devices than asked for.
    """
    devices = jax.devices()
    count = len(devices) if device_count is None else device_count
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"`device_count` must be between 1 and {len(devices)}, got {count}."
        )
    return Mesh(np.asarray(devices[:count]), ("data",), axis_types=(AxisType.Auto,))


def by_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, tree: PyTree) -> PyTree:
    """Splits the leading axis of every array of `tree` over the devices."""
    return jax.device_put(tree, by_batch(mesh))


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Copies every array of `tree` to every device."""
    return jax.device_put(tree, replicated(mesh))


def check_batch_size(mesh: Mesh, batch_size: int, name: str) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Raises:
      ValueError: if `batch_size` is not a positive multiple of the device count.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"`{name}` must be a positive multiple of the {mesh.size} devices, got "
            f"{batch_size}."
        )


def own_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns which rows of a global batch the devices of this process hold, sorted."""
    parts = by_batch(mesh).addressable_devices_indices_map((batch_size,))
    return np.unique([np.arange(batch_size)[index] for index in parts.values()])


def from_rows(mesh: Mesh, rows: PyTree, batch_size: int) -> PyTree:
    """Makes global batches of which every process brings its own rows only.

    Args:
      mesh: the devices.
      rows: arrays of the rows `own_rows(mesh, batch_size)`, in that order.
      batch_size: rows of the global batch.

    Returns:
      Arrays with `batch_size` rows, split over the devices.
    """
    own = own_rows(mesh, batch_size)

    def to_global(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            # A device holds a block of rows, so its own rows are neighbours here too.
            start, stop, _ = index[0].indices(batch_size)
            first, last = np.searchsorted(own, (start, stop))
            return array[first:last]

        shape = (batch_size, *array.shape[1:])
        return jax.make_array_from_callback(shape, by_batch(mesh), part)

    return jax.tree.map(to_global, rows)
