"""Files of a local folder or archive, by relative path, and their checksums."""

import bz2
import contextlib
import functools
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, cast

import tqdm
from etils import epath

from jaxrobust.data import _reading
from jaxrobust.data._machine import memory
from jaxrobust.data._names import printable
from jaxrobust.runtime import files, reading

Members = Mapping[str, Callable[[], bytes]]
"""Relative path with forward slashes -> a function that reads the file."""

ZIP_SUFFIXES = (".zip",)
# Of one file, and of an archive: more than any published set of images has.
MOST_MEMBER = 4 << 30
MOST_ARCHIVE = 1 << 40
# How many times its size an archive of images may unpack to, beyond what is little.
_DENSEST = 500
_SMALL = 256 << 20
_MOST_MEMBERS = 5_000_000
_ENCRYPTED = 1  # a bit of a member's flags
_METHODS = (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
    zipfile.ZIP_BZIP2,
    zipfile.ZIP_LZMA,
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def open_members(source: os.PathLike[str] | str) -> Members:
    """Lists the files of a folder, a .zip or a .tar (also compressed).

    Folders and zips are read file by file when asked; a tar, which has no index, is
    read into memory whole. Nothing is unpacked to disk: what a member is called, or
    links to, does not matter.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a file that is no archive, is damaged or encrypted, or announces
            more than there can be in it or than the memory holds.
    """
    if not os.fspath(source):
        raise ValueError("the archive or folder to read has an empty path")
    path = files.expand(source)
    if path.is_dir():
        read = functools.partial(functools.partial, _read_file)
        return {file: read(path / file) for file in _reading.walk(path)}
    if not path.exists():
        raise FileNotFoundError(f"no such archive or folder: {path.resolve()}")
    name, shown = path.name.lower(), printable(str(path))
    if not name.endswith(ZIP_SUFFIXES + TAR_SUFFIXES):
        raise ValueError(
            f"{printable(path.name)!r} is neither a folder nor an archive "
            f"({', '.join(ZIP_SUFFIXES + TAR_SUFFIXES)}); give the folder that holds it"
        )
    try:
        stream = reading.opened(path, MOST_ARCHIVE)
    except OSError as error:
        raise _reading.unreadable(path, error) from None
    with stream:
        if name.endswith(TAR_SUFFIXES):
            return read_tar(stream, shown)
        packed = stream.seek(0, io.SEEK_END)
    return _list_zip(path, packed)


def _read_file(path: epath.Path) -> bytes:
    return _reading.read_file(path, MOST_MEMBER)


def _list_zip(path: epath.Path, packed: int) -> Members:
    """Lists the files of a zip; each is read when asked, and no more than announced."""
    shown = printable(str(path))
    with _damage(f"{shown} is not a complete archive"):
        archive = zipfile.ZipFile(path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    announced = sum(info.file_size for info in infos)
    if announced > max(_SMALL, _DENSEST * packed):
        raise ValueError(_bomb(shown, packed, announced))
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
        with _damage(f"{printable(info.filename)} in {shown} is damaged"):
            return archive.read(info)

    return {info.filename: functools.partial(read, info) for info in infos}


def read_tar(stream: IO[bytes], title: str) -> Members:
    """Reads the files of a tar, compressed or not, into memory.

    Raises:
        ValueError: no tar, a damaged one, one that unpacks to far more than images do,
            or more than half of the memory.
    """
    members: dict[str, Callable[[], bytes]] = {}
    total, limit = 0, memory() // 2
    packed = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    most = max(_SMALL, _DENSEST * packed)
    with (
        _damage(f"{title} is not a complete archive"),
        tarfile.open(
            fileobj=cast(IO[bytes], _Bounded(_unpacked(stream), most, title)),
            mode="r:",
        ) as archive,
    ):
        bar = tqdm.tqdm(archive, f"reading {title}", leave=False, disable=None)
        for count, info in enumerate(bar):
            # tarfile keeps them all, and a small file can hold very many
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
            if not info.isfile():  # a folder, link or device
                continue
            member = f"{printable(info.name)} in {title}"
            _require_size(info.size, member)
            total += info.size
            if total > most:
                raise _Refused(_bomb(title, packed, total))
            if total > limit or count > _MOST_MEMBERS:
                raise _Refused(
                    f"{title} holds more than {reading.size(limit)}, half of the "
                    f"memory, or {_MOST_MEMBERS:,} files: unpack it and give the folder"
                )
            content = archive.extractfile(info)
            if content is not None:
                name = info.name.removeprefix("./")
                members[name] = io.BytesIO(content.read()).getvalue
    return members


def _unpacked(stream: IO[bytes]) -> IO[bytes]:
    """What a compressed file holds; another as it is."""
    start = stream.read(6)
    stream.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return cast(IO[bytes], bz2.BZ2File(stream))
    if start == b"\xfd7zXZ\x00":
        return cast(IO[bytes], lzma.LZMAFile(stream))
    return stream


class _Bounded:
    """A file of which no more than so many bytes are read at once.

    tarfile reads the long names that a tar announces whole, whatever their size.
    """

    def __init__(self, stream: IO[bytes], most: int, title: str) -> None:
        self._stream, self._most, self._title = stream, most, title
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if size > self._most:
            raise _Refused(
                f"{self._title} announces {reading.size(size)} in one piece: not read"
            )
        return self._stream.read(size)


def _bomb(title: str, packed: int, announced: int) -> str:
    return (
        f"{title} of {reading.size(packed)} announces {reading.size(announced)}, more "
        f"than {_DENSEST} times as much, which images never do: not read"
    )


def _require_size(size: int, member: str) -> None:
    if size > MOST_MEMBER:
        raise _Refused(
            f"{member} announces {reading.size(size)}, more than the "
            f"{reading.size(MOST_MEMBER)} that are read of one file"
        )


class _Refused(ValueError):
    """An archive that could be read, but is not."""


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    """Says in a line what is damaged: the readers of archives raise many kinds."""
    try:
        yield
    except (_Refused, MemoryError):
        raise
    except Exception as error:
        [reason, *_] = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{what}: {printable(reason)}") from None


def by_name(members: Members) -> dict[str, Callable[[], bytes]]:
    """The files by their last path part; for sets whose file names are unique."""
    return {path.rsplit("/", 1)[-1]: read for path, read in members.items()}


def verify(source: os.PathLike[str] | str, checksums: Mapping[str, str]) -> None:
    """Compares files of known names with their known checksums.

    Args:
        source: an archive, or a folder of which every file of a known name is checked.
        checksums: file name -> SHA-256 or MD5 in hexadecimal.

    Raises:
        ValueError: a file differs; names both checksums.
    """
    path = files.expand(source)
    there = [path / f for f in _reading.walk(path)] if path.is_dir() else [path]
    for file in there:
        expected = checksums.get(file.name)
        if expected is None or not file.exists():
            continue
        found = digest(file, like=expected)
        if found != expected:
            raise ValueError(
                f"checksum of {file}: expected {kind(expected)} {expected}, found "
                f"{found}.\n"
                "The file is damaged, incomplete or another one of the same name.\n"
                "Fetch it again, or pass --no_verify to use it as it is."
            )


def kind(checksum: str) -> str:
    """The name of a checksum in hexadecimal: MD5 has 32 digits, SHA-256 64."""
    return "MD5" if len(checksum) == 32 else "SHA-256"


def hasher(like: str) -> Any:
    """A new hash of the kind of a checksum."""
    # MD5 only tells damaged files: some publishers record nothing else.
    name = kind(like).replace("-", "").lower()
    return hashlib.new(name, usedforsecurity=False)


def digest(file: epath.Path, like: str) -> str:
    """The checksum of a file's content, of the kind of another; a bar if long."""
    digest = hasher(like)
    bar = tqdm.tqdm(
        total=file.stat().length,
        desc=f"verifying {file.name}",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,
        delay=1,
    )
    with bar, reading.opened(file, MOST_ARCHIVE) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
