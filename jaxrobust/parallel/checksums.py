"""Checksums of arrays: what was read again is what was written, bit for bit.

A flipped bit on a disk passes through compression without a word, and gives other
weights that look like weights.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrobust.array_types import PyTree

_MIX = np.uint32(0x9E3779B1)  # odd, so that no weight of a word is 0


def of_parts(
    *, config: Mapping[str, Any] | None = None, **trees: PyTree
) -> dict[str, dict[str, int]]:
    """Returns the checksums of a config (as JSON keeps it) and of trees of arrays."""
    found = {name: of_tree(tree) for name, tree in trees.items()}
    if config is not None:
        text = json.dumps(json.loads(json.dumps(config)), sort_keys=True)
        found["config"] = {"": zlib.crc32(text.encode())}
    return found


def changed(kept: Mapping[str, Any], **parts: PyTree) -> str:
    """Names the first array, or config, that is not what it was; empty if all are.

    What `kept` does not have is not compared: older versions wrote no checksums.
    """
    known = {name: part for name, part in parts.items() if name in kept}
    for name, found in of_parts(**known).items():
        told = kept[name] if isinstance(kept[name], Mapping) else {}
        for path, value in found.items():
            if told.get(path) != value:
                return f"{name} {path}".strip()
    return ""


def of_tree(tree: PyTree) -> dict[str, int]:
    """Returns a number of 32 bits for each array, by its path in the tree.

    It depends on the values alone, and neither on devices nor on how arrays are spread
    over them: the sum of an array's words, each times an odd number that its position
    gives, so that one changed word always shows. Where arrays are spread over processes
    all of them call this with the same tree, and get the same answer.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = np.array([_of_array(leaf) for _, leaf in leaves], np.uint32)
    spread = [_is_spread(leaf) for _, leaf in leaves]
    if any(spread):
        whole = multihost_utils.process_allgather(sums).sum(0, dtype=np.uint32)
        sums = np.where(spread, whole, sums)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    ]
    return dict(zip(names, sums.tolist(), strict=True))


def _is_spread(array: jax.typing.ArrayLike) -> bool:
    return isinstance(array, jax.Array) and not array.is_fully_addressable


def _of_array(array: jax.typing.ArrayLike) -> int:
    """Sums the parts that this process has to count, each once among all processes."""
    if not isinstance(array, jax.Array):
        array = np.asarray(array)
        return _of_part(array, array.shape, (slice(None),) * array.ndim)
    parts = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    found = [_of_part(np.asarray(x.data), array.shape, x.index) for x in parts]
    return sum(found) % (1 << 32)


def _of_part(part: np.ndarray, shape: tuple[int, ...], index: tuple[slice, ...]) -> int:
    """Sums one part of an array; `index` says where in the array of `shape` it is."""
    position = np.zeros((1,) * part.ndim, np.uint32)
    for axis, (size, where) in enumerate(zip(shape, index, strict=True)):
        places = np.arange(size, dtype=np.uint32)[where]
        along = [1] * part.ndim
        along[axis] = -1
        position = position * np.uint32(size) + places.reshape(along)
    weights = np.broadcast_to(position * _MIX | np.uint32(1), part.shape)
    found = np.uint32(0)
    for number, words in enumerate(_words(part)):
        found += np.sum(words * (weights + np.uint32(2 * number)), dtype=np.uint32)
    return int(found)


def _words(part: np.ndarray) -> list[np.ndarray]:
    """Returns an array's bits as arrays of its shape, of at most 32 bits each."""
    part = np.ascontiguousarray(part).reshape(part.shape)
    size = part.dtype.itemsize
    if size <= 4:
        return [part.view(f"u{size}").astype(np.uint32)]
    words = part.reshape(*part.shape, 1).view(np.uint32)
    return [words[..., i] for i in range(words.shape[-1])]
