"""The one writer of files.

A reader never sees half a file, and whatever lies in the folder (a folder that others
can write too) decides nothing: a file is written under a name that nobody can guess
and then renamed over the target, so a link at the target's name is replaced and not
followed. `reading` is the other direction.
"""

import contextlib
import errno
import io
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
from etils import epath

_PARTIAL = ".partial"
_ABANDONED_S = 3600
_ODD = '/\\*?[]:"<>|'  # separators, patterns, and what other systems refuse in names
# What kernels and network file systems answer that cannot sync a folder.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EACCES)
BUCKETS = ("gs://", "s3://", "az://", "hf://")


def is_remote(path: epath.PathLike) -> bool:
    """Says whether a path is an object store's, as `gs://` is."""
    return "://" in os.fspath(path)


def expand(path: epath.PathLike) -> epath.Path:
    """Returns a path that a user gave, with `~` as the home folder.

    ValueError is raised for an empty path (of a variable of the shell that is not set,
    say), and where no home folder is known, or no such user as in `~name`: neither must
    become a folder of that name. So it is for what is no kind of `BUCKETS`.
    """
    text = os.fspath(path)
    if not text:
        raise ValueError("a path is empty; for the current folder give a dot.")
    if is_remote(text) and not text.startswith(BUCKETS):
        raise ValueError(
            f"{text}: a path is a folder, or one of a bucket: {', '.join(BUCKETS)}."
        )
    found = text if is_remote(text) else os.path.expanduser(text)
    user = text.partition("/")[0]
    if user.startswith("~") and user != "~" and not os.path.isabs(found):
        raise ValueError(
            f"{text}: there is no user {user[1:]!r}; for a folder of that name give "
            f"./{text}."
        )
    if user == "~" and not os.path.isabs(found):
        raise ValueError(
            f"{text}: no home folder is known (HOME is not set); give the path in full."
        )
    return epath.Path(found)


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """Gives a file to write bytes to; it takes the target's place at the end.

    Nothing changes if the block raises. Folders above the target are made, a link in
    its place is replaced and not followed. A remote object is written as a whole.

    Raises:
      IsADirectoryError: if the target is a folder.
      OSError: if it is a device, a pipe or a socket, or cannot be written.
    """
    path = epath.Path(path)
    if is_remote(path):
        buffer = io.BytesIO()
        yield buffer
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = f".{secrets.token_hex(16)}{_PARTIAL}"
    # Names below are looked up in this folder, even if its own path is moved.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _require_replaceable(path, folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        number = os.open(partial, flags, 0o666, dir_fd=folder)
        try:
            with open(number, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.rename(partial, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=folder)
            raise
        try:  # a rename lasts through a power cut, where the file system can
            os.fsync(folder)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
    finally:
        os.close(folder)


def _require_replaceable(path: epath.Path, folder: int) -> None:
    """Refuses a target that a rename must not, or cannot, take the place of."""
    try:
        mode = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(
            f"{path} is a folder where a file is to be written: move it away."
        )
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise OSError(f"{path} is {kind(mode)}, not a file: move it away.")


def kind(mode: int) -> str:
    """Names what is no ordinary file, from its mode."""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Writes a file, replacing an existing one at once; see `writing`."""
    with writing(path) as file:
        file.write(content)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file of UTF-8, replacing an existing one at once; see `writing`."""
    write_bytes(path, text.encode())


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes JSON, replacing an existing file at once."""
    write_text(path, json.dumps(as_plain(value), indent=2, allow_nan=False) + "\n")


def write_npz(path: epath.PathLike, arrays: Mapping[str, Any], compress: bool) -> None:
    """Writes arrays by name, replacing an existing file at once."""
    with writing(path) as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


def append_to(path: epath.PathLike) -> IO[str]:
    """Opens a file of this machine to add lines at its end, if it is an `own_file`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return open(own_file(path, flags), "a", encoding="utf-8")


def own_file(path: epath.PathLike, flags: int) -> int:
    """Opens a file at a fixed name that others could have put something at.

    Returns its descriptor. A link, a file with another name too, and what is no
    ordinary file are an OSError: what they lead to is not ours to write.
    """
    # Without O_NONBLOCK a named pipe would wait for its other end.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _not_ours(path, "a link") from None
        if error.errno == errno.ENXIO:
            raise _not_ours(path, "a named pipe or a socket") from None
        if error.errno == errno.EISDIR:
            raise _not_ours(path, "a folder") from None
        raise
    found = os.fstat(number)
    what = None if stat.S_ISREG(found.st_mode) else kind(found.st_mode)
    if found.st_nlink > 1:
        what = "a file that has another name too (a hard link)"
    if what:
        os.close(number)
        raise _not_ours(path, what)
    return number


def _not_ours(path: epath.PathLike, what: str) -> OSError:
    return OSError(f"{os.fspath(path)} is {what} and is not written: move it away.")


def own_folder(path: epath.PathLike) -> epath.Path:
    """Makes a folder of ours inside one that the user named; it may be there.

    A link is an OSError: nothing is written outside the folder that was named. So is a
    file in its place.
    """
    path = epath.Path(path)
    if not is_remote(path) and os.path.islink(path):
        raise OSError(
            f"{path} is a link, and what it leads to is not written: replace it by a "
            "folder, or give the folder that is meant."
        )
    require_folder(path, "move it away")
    path.mkdir(parents=True, exist_ok=True)
    return path


def require_folder(path: epath.PathLike, advice: str) -> None:
    """Checks that a folder is there or can be made, before any work.

    If it, or what should be a folder above it, is a file, a pipe, a link to nothing ...
    that is a NotADirectoryError which ends with the advice.
    """
    if is_remote(path):
        return
    there = os.path.abspath(path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise NotADirectoryError(f"{there} is there and is no folder: {advice}.")


def safe_path(folder: epath.PathLike, parts: Iterable[str]) -> epath.Path:
    """Returns a path below a folder, of names that others chose, the outermost first.

    A name cannot lead out of the folder, be hidden, or have characters that make it a
    pattern or break a line. Nothing is made.
    """
    path = epath.Path(folder)
    for part in parts:
        name = "".join(c if c.isprintable() and c not in _ODD else "_" for c in part)
        name = name.strip(" ")[:60]
        path /= f"_{name}" if name.startswith((".", "~")) or not name else name
    return path


def sweep(folder: epath.PathLike) -> None:
    """Removes what `writing` left where a process was killed an hour or more ago."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            ours = entry.name.startswith(".") and entry.name.endswith(_PARTIAL)
            if ours and len(entry.name) == 33 + len(_PARTIAL):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _ABANDONED_S and entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)


def as_plain(value: Any) -> Any:
    """Turns mappings, arrays and scalars into what JSON holds; NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(k): as_plain(v) for k, v in value.items()}
    if hasattr(value, "__array__"):  # of numpy and of jax
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [as_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
