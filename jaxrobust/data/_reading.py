"""Files of a folder: listed without being opened, and read only if they are files."""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator
from typing import IO, Any

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


class RefusedFile(ValueError):
    """What could be read, but is not."""


@contextlib.contextmanager
def named(describe: Callable[..., str], *args: Any) -> Iterator[None]:
    """Puts `describe(*args)`, not called before, in front of what is wrong."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{describe(*args)}: {error}") from None


@contextlib.contextmanager
def damage(what: str, *passing: type[Exception]) -> Iterator[None]:
    """Says in a line what is damaged: readers raise many kinds, of which some pass."""
    try:
        yield
    except (RefusedFile, *passing):
        raise
    except Exception as error:
        reason = printable(reading.first_line(error))
        if not isinstance(error, ValueError | EOFError | pickle.PickleError):
            reason = f"{type(error).__name__}: {reason}"
        raise ValueError(f"{what}: {reason}") from None


@contextlib.contextmanager
def readable(path: os.PathLike[str] | str) -> Iterator[None]:
    """Says in a line which file or folder the system does not give, and why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or reading.first_line(error)
        raise ValueError(
            f"{printable(os.fspath(path))}: cannot be read: {reason}"
        ) from None


def most(packed: int) -> int:
    """The most bytes that are believed of an archive of so many."""
    return max(SMALL, _DENSEST * packed)


def require_density(title: str, packed: int, announced: int) -> None:
    """Raises `RefusedFile` for an archive that announces more than `most`."""
    if announced > most(packed):
        raise RefusedFile(
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
    return [name for name, is_folder in entries(path) if is_folder]


def walk(
    folder: epath.Path, prefix: str = "", seen: dict[tuple[int, int], str] | None = None
) -> Iterator[str]:
    """The files below a folder, by relative path, sorted, without hidden ones.

    Links are followed; nothing is opened but folders. `seen` holds the folders met
    before, by device and inode: one that is met again through a link is refused.
    """
    seen = {} if seen is None else seen
    _meet(folder, seen)
    if prefix.count("/") > _DEEPEST:
        raise ValueError(f"{printable(str(folder))}: more than {_DEEPEST} folders deep")
    for name, is_folder in entries(folder):
        if is_folder:
            yield from walk(folder / name, f"{prefix}{name}/", seen)
        else:
            yield prefix + name


def _meet(folder: epath.Path, seen: dict[tuple[int, int], str]) -> None:
    if files.is_remote(folder):
        return
    with readable(folder):
        found = os.stat(folder)
    key = (found.st_dev, found.st_ino)
    if key in seen:
        raise ValueError(
            f"{printable(str(folder))} is the folder {printable(seen[key])} again "
            "(a link): remove the link"
        )
    if found.st_ino:  # 0 where a file system has none
        seen[key] = str(folder)


def entries(folder: epath.Path) -> list[tuple[str, bool]]:
    """Name and kind (folder or not) of what is in a folder, sorted, not hidden."""
    with readable(folder):
        if files.is_remote(folder):
            found = [(child.name, child.is_dir()) for child in folder.iterdir()]
        else:
            with os.scandir(folder) as entries:
                found = [(entry.name, _is_folder(entry)) for entry in entries]
    return sorted((name, kind) for name, kind in found if not is_hidden(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def open_file(path: os.PathLike[str] | str, limit: int = MOST_BYTES) -> IO[bytes]:
    """Opens a file of the user's, if it is one of at most `limit` bytes."""
    try:
        with readable(path):
            return reading.opened(path, limit)
    except ValueError as error:  # its name may have line breaks
        raise ValueError(printable(str(error))) from None


def read_file(path: os.PathLike[str] | str, limit: int = MOST_BYTES) -> bytes:
    """The content of a file; see `open_file`."""
    with open_file(path, limit) as stream, readable(path):
        # Without a size, which would be taken from memory at once for any file.
        return stream.read()


def text_of(content: bytes, name: str) -> str:
    """Decodes UTF-8; an error names the file."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no text in UTF-8: {error.reason}") from None
