"""Files of arrays, looked at before memory is taken for what they say they hold."""

import importlib
import pathlib
import zipfile
from typing import Any

import numpy as np

from jaxrobust.runtime import reading

# Contents that are larger than this, and than so many times their file, are a bomb.
_LARGE, _RATIO = 1 << 30, 50
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


def import_torch(needed_by: str) -> Any:
    """Imports torch; ImportError that says what for and how to get it."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise ImportError(
            f"{needed_by} needs torch: pip install 'jaxrobust[torch]'."
        ) from None
