"""One mesh over all devices of all processes; batches are split, all else is copied.

Arrays go to the mesh and come back through here, so nothing else needs to know whether
its devices belong to one process or to several.
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from jaxrobust.array_types import PyTree


def make_mesh(device_count: int | None = None) -> Mesh:
    """Returns a mesh with one axis, `data`, over all devices of all processes.

    Or over the first `device_count` of this process; ValueError if there are fewer.
    """
    devices = jax.devices()
    if jax.process_count() > 1 and device_count is not None:
        devices = jax.local_devices()  # others could not see what a part computes
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
    """Splits the leading axis of arrays that every process has over the devices."""
    return _put(tree, by_batch(mesh))


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Copies every array of `tree`, which every process has, to every device."""
    return _put(tree, replicated(mesh))


def _put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _put_global(leaf, sharding), tree)


def _put_global(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Makes an array over several processes from one that each of them has."""
    if isinstance(leaf, jax.Array):
        if leaf.sharding == sharding:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = _put_global(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])


def own_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns which rows of a global batch the devices of this process hold, sorted."""
    parts = by_batch(mesh).addressable_devices_indices_map((batch_size,))
    return np.unique([np.arange(batch_size)[index] for index in parts.values()])


def from_rows(mesh: Mesh, rows: PyTree, batch_size: int) -> PyTree:
    """Makes global batches of which every process brings its own rows only.

    `rows` are arrays of the rows `own_rows(mesh, batch_size)`, in that order; the
    result has `batch_size` rows, split over the devices.
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


def to_host(tree: PyTree) -> PyTree:
    """Returns host arrays, whole on every process that calls it; all of them must."""
    return jax.device_get(jax.tree.map(_gather, tree))


def _gather(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return multihost_utils.process_allgather(leaf, tiled=True)


def rows_to_host(array: Any, rows: Int[np.ndarray, "n"]) -> np.ndarray:
    """Returns some rows of an array on every process; all of them must call it."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)[rows]
    # Few sizes, so that few programs are compiled.
    padded = np.resize(rows, 1 << max(len(rows) - 1, 0).bit_length())
    everywhere = array.sharding.update(spec=PartitionSpec())  # pyright: ignore[reportAttributeAccessIssue]
    taken = jax.jit(operator.getitem, out_shardings=everywhere)(array, padded)
    return np.asarray(taken)[: len(rows)]
