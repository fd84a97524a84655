"""Files of arrays, looked at before memory is taken for what they say they hold."""

import importlib
import json
import math
import pathlib
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from jaxrobust.runtime import reading

# Contents that are larger than this, and than so many times their file, are a bomb.
_LARGE, _RATIO = 1 << 30, 50
_HEADER = 100 << 20  # bytes of a safetensors header, as its own reader allows
_SAFETENSORS: dict[str, Any] = {
    "BOOL": np.bool_,
    **{f"{k}{n}": np.dtype(f"{k.lower()}{n // 8}") for k in "UI" for n in (8, 16, 32)},
    **{f"{k}64": np.dtype(f"{k.lower()}8") for k in "UI"},
    **{f"F{n}": np.dtype(f"f{n // 8}") for n in (16, 32, 64)},
    "BF16": ml_dtypes.bfloat16,
}
KINDS = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
_OTHER_KINDS = {
    b"version https://git-lfs": "is a git-LFS pointer and no weights: get them with "
    "`git lfs pull`",
    b"<": "is a web page, not a file of weights: download it again",
    b"{": "is JSON text, not a file of weights",
    b"\x1f\x8b": "is a gzip archive: unpack it first",
    b"7z\xbc\xaf": "is a 7z archive: unpack it first",
    b"Rar!": "is a RAR archive: unpack it first",
    b"\x89HDF": "is an HDF5 file, which is not read here",
}


def check(path: pathlib.Path) -> None:
    """Refuses what is no file of arrays by its first bytes, or unpacks to far more."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip()
    if not start:
        raise ValueError("No data left in file")
    safetensors = path.suffix.lower() == ".safetensors"
    for mark, told in _OTHER_KINDS.items():
        # The length of a safetensors header may begin as any short mark does.
        if start.startswith(mark) and (len(mark) > 7 or not safetensors):
            raise ValueError(told)
    if safetensors:
        return
    if zipfile.is_zipfile(path):
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            whole = sum(info.file_size for info in archive.infolist())
        if whole > max(_LARGE, _RATIO * size):
            raise ValueError(f"would unpack to {whole} bytes, from {size}: not opened")


def check_torch_zip(path: pathlib.Path) -> None:
    """Refuses a zip of torch's that is damaged: torch compares no checksums."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise ValueError("it is cut short: download or copy it again")
        return
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(
                f"{damaged} has another checksum than the file says: damaged on the "
                "way, download or copy it again"
            )


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads an npz file, see `reading.read_arrays`."""
    with open(path, "rb") as file:
        return reading.read_arrays(file, max(_LARGE, _RATIO * path.stat().st_size))


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file whose tensors lie in it one after the other."""
    data = path.read_bytes()
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
        if kind not in _SAFETENSORS:
            raise ValueError(f"{name} is of the kind {kind!r:.40}, not read here")
        dtype = np.dtype(_SAFETENSORS[kind])
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


def import_torch(needed_by: str) -> Any:
    """Imports torch; ImportError that says what for and how to get it."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise ImportError(
            f"{needed_by} needs torch: pip install 'jaxrobust[torch]'."
        ) from None
