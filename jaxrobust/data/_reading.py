"""Files of a folder: listed without being opened, and read only if they are files."""

import os
from collections.abc import Iterator
from typing import IO

from etils import epath

from jaxrobust.data._names import printable
from jaxrobust.runtime import files, reading

# More than any image of a size that is read (`_images`).
MOST_BYTES = 1 << 30
# How many times its size an archive of images may unpack to (drawings: 100 times;
# zeros: 1,000), beyond what any machine has to spare.
_DENSEST = 500
SMALL = 256 << 20
_DEEPEST = 32
# What systems and programs leave beside a user's files.
_NOT_THEIRS = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "@eadir",
        "__pycache__",
    }
)


class Refused(ValueError):
    """What could be read, but is not."""


def most(packed: int) -> int:
    """The most bytes that are believed of an archive of so many."""
    return max(SMALL, _DENSEST * packed)


def require_density(title: str, packed: int, announced: int) -> None:
    """Raises `Refused` for an archive that announces more than `most`."""
    if announced > most(packed):
        raise Refused(
            f"{title} of {reading.size(packed)} announces {reading.size(announced)}, "
            f"more than {_DENSEST} times as much, which images never do: not read"
        )


def is_hidden(path: str) -> bool:
    """Whether a part of a relative path is hidden, or made by a system for itself."""
    return any(
        part.startswith((".", "~$")) or part.lower() in _NOT_THEIRS
        for part in path.split("/")
    )


def folders(path: epath.Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return [name for name, is_folder in _entries(path) if is_folder]


def files_in(path: epath.Path) -> list[str]:
    """The names of what is no folder in a folder, sorted, without hidden ones."""
    return [name for name, is_folder in _entries(path) if not is_folder]


def walk(
    folder: epath.Path, prefix: str = "", seen: dict[tuple[int, int], str] | None = None
) -> Iterator[str]:
    """The files below a folder, by relative path, sorted, without hidden ones.

    Links are followed; nothing is opened but folders.

    Args:
        folder: where to look.
        prefix: put before each path.
        seen: folders met before, by device and inode; a folder is met once.

    Raises:
        ValueError: a folder that cannot be listed, or that is met again through a link.
    """
    seen = {} if seen is None else seen
    _meet(folder, seen)
    if prefix.count("/") > _DEEPEST:
        raise ValueError(f"{printable(str(folder))}: more than {_DEEPEST} folders deep")
    for name, is_folder in _entries(folder):
        if is_folder:
            yield from walk(folder / name, f"{prefix}{name}/", seen)
        else:
            yield prefix + name


def _meet(folder: epath.Path, seen: dict[tuple[int, int], str]) -> None:
    if files.is_remote(folder):
        return
    try:
        found = os.stat(folder)
    except OSError as error:
        raise unreadable(folder, error) from None
    key = (found.st_dev, found.st_ino)
    if key in seen:
        raise ValueError(
            f"{printable(str(folder))} is the folder {printable(seen[key])} again "
            "(a link): remove the link"
        )
    if found.st_ino:  # 0 where a file system has none
        seen[key] = str(folder)


def _entries(folder: epath.Path) -> list[tuple[str, bool]]:
    """Name and kind (folder or not) of what is in a folder, sorted, not hidden.

    Raises:
        ValueError: the folder cannot be listed.
    """
    try:
        if files.is_remote(folder):
            found = [(child.name, child.is_dir()) for child in folder.iterdir()]
        else:
            with os.scandir(folder) as entries:
                found = [(entry.name, _is_folder(entry)) for entry in entries]
    except OSError as error:
        raise unreadable(folder, error) from None
    return sorted((name, kind) for name, kind in found if not is_hidden(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def open_file(path: os.PathLike[str] | str, limit: int = MOST_BYTES) -> IO[bytes]:
    """Opens a file of the user's to read it, if it is one.

    Raises:
        ValueError: a device, pipe, socket or folder, a file of more than `limit` bytes,
            or one that cannot be read; names it.
    """
    try:
        return reading.opened(path, limit)
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:  # its name may have line breaks
        raise ValueError(printable(str(error))) from None


def read_file(path: os.PathLike[str] | str, limit: int = MOST_BYTES) -> bytes:
    """The content of a file; see `open_file`."""
    with open_file(path, limit) as stream:
        try:
            # Without a size, which would be taken from memory at once for any file.
            return stream.read()
        except OSError as error:
            raise unreadable(path, error) from None


def unreadable(path: os.PathLike[str] | str, error: OSError) -> ValueError:
    """The error, in one line, for a file or folder that the system does not give."""
    [reason, *_] = (error.strerror or str(error)).splitlines() or [type(error).__name__]
    return ValueError(f"{printable(os.fspath(path))}: cannot be read: {reason}")
