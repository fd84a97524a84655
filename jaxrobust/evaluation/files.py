"""Writing results so that a reader never sees half a file."""

import io
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath


def as_plain(value: Any) -> Any:
    """Turns mappings, arrays and scalars into what JSON holds; NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [as_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes JSON, replacing an existing file at once."""
    text = json.dumps(as_plain(value), indent=2, allow_nan=False)
    write_bytes(path, text.encode() + b"\n")


def write_npz(path: epath.PathLike, arrays: Mapping[str, Any], compress: bool) -> None:
    """Writes arrays by name, replacing an existing file at once."""
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def is_remote(path: epath.PathLike) -> bool:
    """Says whether a path is an object store's, as `gs://` is."""
    return "://" in str(path)


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Writes beside the target and renames; a remote object appears as a whole."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):
        path.write_bytes(content)
        return
    partial = path.parent / f"{path.name}.{os.getpid()}.partial"
    partial.write_bytes(content)
    partial.replace(path)
