"""Reading files that somebody else may have made, or that a crash cut short.

A file is data: nothing in it is run or imported. Its size is known before memory is
taken, and whatever is wrong with it is a ValueError of one line that names the file.
"""

import json
import math
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from absl import logging
from etils import epath

from jaxrobust.runtime import files

MIB = 1 << 20
_DEEPEST = 100  # nested lists and objects of JSON
_LONGEST = 16 * MIB  # a line of JSON lines
_MEMBERS = 10_000
_PLAIN = "biufcSU"  # kinds of dtype that are numbers or text


def size(number: float) -> str:
    """Says a number of bytes."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def opened(path: epath.PathLike, limit: int) -> IO[bytes]:
    """Opens a file of at most `limit` bytes to read; links are followed.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if it is no file (a pipe would never end), or larger than `limit`.
    """
    path = epath.Path(path)
    if files.is_remote(path):
        found = path.stat()
        if found.is_directory:
            raise ValueError(f"{path} is a folder, not a file.")
        _require_size(path, found.length or 0, limit)
        return path.open("rb")
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is {files.kind(found.st_mode)}, not a file.")
        _require_size(path, found.st_size, limit)
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


def _require_size(path: epath.PathLike, found: int, limit: int) -> None:
    if found > limit:
        raise ValueError(
            f"{path} has {size(found)}, and such a file at most {size(limit)}."
        )


def read_bytes(path: epath.PathLike, limit: int) -> bytes:
    """Returns what a file holds; see `opened`."""
    with opened(path, limit) as file:
        content = file.read(limit + 1)
    _require_size(path, len(content), limit)  # it may have grown
    return content


def read_json(path: epath.PathLike, limit: int = 64 * MIB, kind: type = object) -> Any:
    """Reads JSON of any shape, or of a `kind`; what is not finite becomes None.

    What is damaged, too large or too deeply nested is a ValueError.
    """
    content = read_bytes(path, limit)
    try:
        value = _parsed(content)
        if not isinstance(value, kind):
            raise ValueError(f"{type(value).__name__} in place of {kind.__name__}")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}).") from None
    return value


def read_json_lines(
    path: epath.PathLike, limit: int = 512 * MIB
) -> Iterator[dict[str, Any]]:
    """Gives the objects of a file of JSON lines; what is no object is left out, told.

    Not of a last line that a crash has cut short. A file that is too large, or has a
    line that is, is a ValueError.
    """
    odd = 0
    with opened(path, limit) as file:
        while line := file.readline(_LONGEST + 1):
            if len(line) > _LONGEST:
                raise ValueError(
                    f"{path} is damaged (a line of more than {size(_LONGEST)})."
                )
            try:
                row = _parsed(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield row
            else:
                odd += line.endswith(b"\n") and not line.isspace()
    if odd:
        logging.warning("%s: %d damaged lines are left out", path, odd)


def _parsed(content: bytes) -> Any:
    try:
        value = json.loads(
            content, parse_constant=lambda name: None, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("too deeply nested") from None
    return _clean(value, _DEEPEST)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _clean(value: Any, deepest: int) -> Any:
    """Checks the depth, and replaces what no text file can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if not isinstance(value, dict | list):
        return value
    if not deepest:
        raise ValueError("too deeply nested")
    if isinstance(value, list):
        return [_clean(one, deepest - 1) for one in value]
    return {_clean(k, 1): _clean(v, deepest - 1) for k, v in value.items()}


def read_npz(
    path: epath.PathLike, limit: int, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads arrays of numbers and text by name, of all names or of some.

    `limit` are the most bytes that its arrays may take, which is checked by what the
    file declares before any is read, and that the file itself may have. What is
    damaged, too large, or holds Python objects is a ValueError.
    """
    with opened(path, limit) as file:
        try:
            return read_arrays(file, limit, names)
        except MemoryError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise many kinds
            reason = first_line(error)[:200]
            raise ValueError(f"{path} is damaged ({reason}).") from None


def read_arrays(
    file: IO[bytes], limit: int, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads the arrays of an open npz file as `read_npz`; errors are of many kinds."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > _MEMBERS:
            raise ValueError(f"{len(members)} arrays, at most {_MEMBERS} are read")
        total = sum(member.file_size for member in members)
        if total > limit:
            raise ValueError(
                f"its arrays take {size(total)}, such a file's at most {size(limit)}"
            )
        wanted = {m.filename.removesuffix(".npy"): m for m in members}
        if names is not None:
            wanted = {k: wanted[k] for k in names if k in wanted}
        return {k: _array(archive, member) for k, member in wanted.items()}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads one array, once its header says that it is what the archive declares."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in a way numpy never uses")
    with archive.open(member) as stream:
        shape, dtype = _header(stream)
        wanted = math.prod(shape) * dtype.itemsize
        if dtype.kind not in _PLAIN:
            what = "Python objects" if dtype.kind == "O" else str(dtype)
            raise ValueError(
                f"{member.filename} holds {what}, which are not read: save it as an "
                "array of plain numbers or text"
            )
        if wanted > member.file_size or min(shape, default=0) < 0:
            raise ValueError(f"{member.filename} is shorter than its shape {shape}")
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):  # at the end the checksum is compared
            raise ValueError(f"{member.filename} is longer than its shape {shape}")
    return array


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"version {version} of numpy's format")
    shape, _, dtype = read[version](stream)
    return shape, dtype
