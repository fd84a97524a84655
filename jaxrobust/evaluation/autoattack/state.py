"""What an evaluation keeps on disk, so that a killed one goes on where it was."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxrobust import parallel
from jaxrobust.runtime import files, reading

VERSION = 2
_META = "meta"


def save(path: epath.Path, meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Writes numbers and arrays, replacing the file at once."""
    text = json.dumps({**meta, "format": VERSION})
    files.write_npz(path, {_META: np.asarray(text), **arrays}, compress=False)


def load(path: epath.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Reads what `save` wrote; None where there is nothing.

    Raises:
      ValueError: for a file of another format, or one that cannot be read.
    """
    if not path.exists():
        return None
    try:
        # They are not compressed: more than the file has would be a trick.
        arrays = reading.read_npz(path, epath.Path(path).stat().length)
        meta = json.loads(str(arrays.pop(_META)))
        if not isinstance(meta, dict):
            raise ValueError("it says nothing about itself")
    except (ValueError, KeyError, OSError, RecursionError) as error:
        raise ValueError(
            f"the saved state {path} cannot be read ({error}): delete it to start anew."
        ) from None
    if meta.get("format") != VERSION:
        raise ValueError(
            f"the saved state {path} has format {meta.get('format')}, this program "
            f"reads {VERSION}: delete it to start anew."
        )
    return meta, arrays


def pack(tree: Any, name: str) -> dict[str, np.ndarray]:
    """Returns the leaves of a tree as host arrays by number; keys as their data."""
    leaves = [_plain(leaf) for leaf in jax.tree.leaves(tree)]
    return {f"{name}/{i}": leaf for i, leaf in enumerate(parallel.to_host(leaves))}


def unpack(like: Any, arrays: Mapping[str, np.ndarray], name: str) -> Any:
    """Makes the tree again, of host arrays, in the structure of `like`."""
    leaves, tree = jax.tree.flatten(like)
    found = [arrays[f"{name}/{i}"] for i in range(len(leaves))]
    for number, (leaf, array) in enumerate(zip(leaves, found, strict=True)):
        wanted = jax.eval_shape(_plain, leaf)
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name}/{number} is {array.dtype} {array.shape}")
    return jax.tree.unflatten(
        tree,
        [
            jax.random.wrap_key_data(jnp.asarray(a), impl=jax.random.key_impl(leaf))
            if _is_key(leaf)
            else a
            for leaf, a in zip(leaves, found, strict=True)
        ],
    )


def part(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Returns the arrays below a name."""
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf
