"""The format safetensors: a JSON header of names, shapes and places, then the numbers.

Nothing in such a file is code, and no array is made that the file does not hold.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

_HEADER = 100 << 20  # bytes of a header, as the format's own reader allows
_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    **{f"{k}{n}": np.dtype(f"{k.lower()}{n // 8}") for k in "UI" for n in (8, 16, 32)},
    **{f"{k}64": np.dtype(f"{k.lower()}8") for k in "UI"},
    **{f"F{n}": np.dtype(f"f{n // 8}") for n in (16, 32, 64)},
    "BF16": ml_dtypes.bfloat16,
}
_KINDS = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def decode(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a file whose tensors lie in it one after the other.

    They are views of `data`. What is damaged is a ValueError of a few words, to which
    the caller adds the name of the file.
    """
    if len(data) < 8:
        raise ValueError("is cut short")
    [length] = struct.unpack("<Q", data[:8])
    if length > min(len(data) - 8, _HEADER):
        raise ValueError(f"says that its header has {length} bytes: damaged")
    try:
        header = json.loads(data[8 : 8 + length])
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        places = {
            k: (*v["data_offsets"], v["dtype"], v["shape"]) for k, v in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("has a damaged header") from None
    arrays, end = {}, 0
    for name, (begin, stop, kind, shape) in sorted(places.items(), key=_begin):
        if kind not in _DTYPES:
            raise ValueError(f"{name} is of the kind {kind!r:.40}, not read here")
        dtype = np.dtype(_DTYPES[kind])
        sizes = [begin, stop, *shape] if isinstance(shape, list) else [None]
        if not all(isinstance(n, int) and n >= 0 for n in sizes):
            raise ValueError(f"{name} has no shape and place: damaged")
        if begin < end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} overlaps another, or is not as long as it says")
        if stop > len(data) - 8 - length:
            raise ValueError(f"{name} reaches beyond the end: cut short")
        view = np.frombuffer(data, dtype, math.prod(shape), 8 + length + begin)
        arrays[name], end = view.reshape(shape), stop
    return arrays


def _begin(item: tuple[str, tuple[Any, ...]]) -> int:
    return item[1][0] if isinstance(item[1][0], int) else 0


def encode(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns a file that holds arrays by name, in their order."""
    header, content = {}, b"".join(value.tobytes() for value in arrays.values())
    end = 0
    for name, value in arrays.items():
        begin, end = end, end + value.nbytes
        kind, place = _KINDS[value.dtype], [begin, end]
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # arrays start where numbers of 8 bytes may
    return struct.pack("<Q", len(text)) + text + content
