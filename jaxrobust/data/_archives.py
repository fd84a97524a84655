"""Files of a local folder or archive, by relative path, and their checksums."""

import functools
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import tqdm
from etils import epath

Members = Mapping[str, Callable[[], bytes]]
"""Relative path with forward slashes -> a function that reads the file."""

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def open_members(source: os.PathLike[str] | str) -> Members:
    """Lists the files of a folder, a .zip or a .tar (also compressed).

    Folders and zips are read file by file when asked; a tar, which has no index, is
    read into memory whole. Nothing is unpacked to disk.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a file that is no archive.
    """
    path = epath.Path(source).expanduser()
    if path.is_dir():
        return {file: (path / file).read_bytes for file in _walk(path)}
    if not path.exists():
        raise FileNotFoundError(f"no such archive or folder: {path.resolve()}")
    try:
        if path.name.lower().endswith(ZIP_SUFFIXES):
            archive = zipfile.ZipFile(path)
            files = [info.filename for info in archive.infolist() if not info.is_dir()]
            return {file: functools.partial(archive.read, file) for file in files}
        if path.name.lower().endswith(TAR_SUFFIXES):
            with path.open("rb") as stream:
                return read_tar(stream, path.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        [reason, *_] = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is not a complete archive: {reason}") from None
    raise ValueError(
        f"{path.name!r} is neither a folder nor an archive "
        f"({', '.join(ZIP_SUFFIXES + TAR_SUFFIXES)}); give the folder that holds it"
    )


def read_tar(stream: IO[bytes], title: str) -> Members:
    """Reads the files of a tar, compressed or not, into memory."""
    members: dict[str, Callable[[], bytes]] = {}
    with tarfile.open(fileobj=stream) as archive:
        for info in tqdm.tqdm(archive, f"reading {title}", leave=False, disable=None):
            content = archive.extractfile(info) if info.isfile() else None
            if content is not None:
                members[info.name.removeprefix("./")] = io.BytesIO(
                    content.read()
                ).getvalue
    return members


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
    path = epath.Path(source).expanduser()
    files = [path / file for file in _walk(path)] if path.is_dir() else [path]
    for file in files:
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
    with bar, file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _walk(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for child in sorted(folder.iterdir(), key=lambda path: path.name):
        if child.is_dir():
            yield from _walk(child, f"{prefix}{child.name}/")
        else:
            yield prefix + child.name
