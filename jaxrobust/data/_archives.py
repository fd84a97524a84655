"""Files of a local folder or archive, by relative path."""

import bz2
import functools
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

import tqdm
from etils import epath

from jaxrobust.data import _reading
from jaxrobust.data._machine import memory
from jaxrobust.data._names import printable
from jaxrobust.runtime import files, reading

Members = Mapping[str, Callable[[], bytes]]
"""Relative path with forward slashes -> a function that reads the file."""

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# How a compressed file begins, and what unpacks it.
_PACKED: Mapping[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# Of one file, and of an archive: more than any published set of images has.
_MOST_MEMBER = 4 << 30
MOST_ARCHIVE = 1 << 40
_MOST_MEMBERS = 5_000_000
_ENCRYPTED = 1  # a bit of a member's flags
_METHODS = (0, 8, 12, 14)  # stored, deflated, bzip2, lzma


def open_members(source: os.PathLike[str] | str) -> Members:
    """Lists the files of a folder, a .zip or a .tar (also compressed).

    Folders and zips are read file by file when asked; a tar, which has no index, is
    read into memory whole. Nothing is unpacked to disk: what a member is called, or
    links to, does not matter. What is no archive, is damaged or encrypted, or announces
    more than there can be in it, or than half of the memory, is a ValueError.
    """
    if not os.fspath(source):
        raise ValueError("the archive or folder to read has an empty path")
    path = files.expand(source)
    if path.is_dir():
        read = functools.partial(_reading.read_file, limit=_MOST_MEMBER)
        return {f: functools.partial(read, path / f) for f in _reading.walk(path)}
    if not path.exists():
        raise FileNotFoundError(f"no such archive or folder: {path.resolve()}")
    name, shown = path.name.lower(), printable(str(path))
    if not name.endswith(_SUFFIXES):
        raise ValueError(
            f"{printable(path.name)!r} is neither a folder nor an archive "
            f"({', '.join(_SUFFIXES)}); give the folder that holds it"
        )
    with _reading.open_file(path, MOST_ARCHIVE) as stream:
        if not name.endswith(".zip"):
            return read_tar(stream, shown)
        packed = stream.seek(0, io.SEEK_END)
    return _list_zip(path, packed)


def _list_zip(path: epath.Path, packed: int) -> Members:
    """Lists the files of a zip; each is read when asked, and no more than announced."""
    shown = printable(str(path))
    with _reading.damage(f"{shown} is not a complete archive", MemoryError):
        archive = zipfile.ZipFile(path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    _reading.require_density(shown, packed, sum(info.file_size for info in infos))
    for info in infos:
        member = f"{printable(info.filename)} in {shown}"
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(
                f"{member} is encrypted: pack the files without a password"
            )
        if info.compress_type not in _METHODS:
            raise ValueError(
                f"{member} is packed by method {info.compress_type}, which is not "
                "known here: pack the files anew, or give the folder they unpack to"
            )
        _require_size(info.file_size, member)

    def read(info: zipfile.ZipInfo) -> bytes:
        with _reading.damage(
            f"{printable(info.filename)} in {shown} is damaged", MemoryError
        ):
            return archive.read(info)

    return {info.filename: functools.partial(read, info) for info in infos}


def read_tar(stream: IO[bytes], title: str) -> Members:
    """Reads the files of a tar, compressed or not, into memory; see `open_members`."""
    members: dict[str, Callable[[], bytes]] = {}
    total, limit = 0, memory() // 2
    packed = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    bounded = cast(IO[bytes], _Bounded(_unpacked(stream), packed, title))
    with (
        _reading.damage(f"{title} is not a complete archive", MemoryError),
        tarfile.open(fileobj=bounded, mode="r:") as archive,
    ):
        bar = tqdm.tqdm(archive, f"reading {title}", leave=False, disable=None)
        for count, info in enumerate(bar):
            # tarfile keeps them all, and a small file can hold very many
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
            if not info.isfile():  # a folder, link or device
                continue
            _require_size(info.size, f"{printable(info.name)} in {title}")
            total += info.size
            _reading.require_density(title, packed, total)
            if total > limit or count > _MOST_MEMBERS:
                raise _reading.RefusedFile(
                    f"{title} holds more than {reading.size(limit)}, half of the "
                    f"memory, or {_MOST_MEMBERS:,} files: unpack it and give the folder"
                )
            if content := archive.extractfile(info):
                name = info.name.removeprefix("./")
                members[name] = io.BytesIO(content.read()).getvalue
    return members


def _unpacked(stream: IO[bytes]) -> IO[bytes]:
    """What a compressed file holds; another as it is."""
    start = stream.read(6)
    stream.seek(0)
    for magic, unpack in _PACKED.items():
        if start.startswith(magic):
            return unpack(stream)
    return stream


class _Bounded:
    """A file of which no more is read at once than there can be in it.

    tarfile reads the long names that a tar announces whole, whatever their size.
    """

    def __init__(self, stream: IO[bytes], packed: int, title: str) -> None:
        self._stream, self._most, self._title = stream, _reading.most(packed), title
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise _reading.RefusedFile(
                f"{self._title} announces {reading.size(size)} in one piece: not read"
            )
        return self._stream.read(size)


def _require_size(size: int, member: str) -> None:
    if size > _MOST_MEMBER:
        raise _reading.RefusedFile(
            f"{member} announces {reading.size(size)}, more than the "
            f"{reading.size(_MOST_MEMBER)} that are read of one file"
        )


def by_name(members: Members) -> dict[str, Callable[[], bytes]]:
    """The files by their last path part; for sets whose file names are unique."""
    return {path.rsplit("/", 1)[-1]: read for path, read in members.items()}
