"""One process per folder."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import socket
from collections.abc import Iterator

from absl import logging
from etils import epath

from jaxrobust.runtime import files

_NAME = ".lock"
_OWNER = ".lock-owner"
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)


@contextlib.contextmanager
def held(folder: epath.PathLike) -> Iterator[None]:
    """Holds a folder of this machine for this process.

    The operating system frees the lock with the process, however it ends, so a killed
    run never blocks its restart. Where the file system has no such lock, a file names
    the process instead (`.lock-owner`); one of a process of this host that is no more
    is taken over.

    Raises:
      BlockingIOError: if another process holds it, naming it.
      OSError: if something that is not ours lies at the lock's name.
    """
    path = epath.Path(folder)
    number = files.own_file(path / _NAME, os.O_RDWR | os.O_CREAT)
    with open(number, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read(64).decode(errors="replace").strip()
            owner = text if text.isdecimal() else "unknown"
            raise _busy(path, f"process {owner}") from None
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            own = _by_name
        else:
            own = contextlib.nullcontext
            # Anything else in it is not ours, and a lock needs no content.
            if (found := file.read(64)) == b"" or found.isdigit():
                file.seek(0)
                file.truncate()
                file.write(str(os.getpid()).encode())
                file.flush()
        with own(path):
            yield


def _busy(path: epath.Path, owner: str, more: str = "") -> BlockingIOError:
    return BlockingIOError(
        f"another run ({owner}) uses {path}; wait for it, stop it, or choose another "
        f"--workdir.{more}"
    )


@contextlib.contextmanager
def _by_name(folder: epath.Path) -> Iterator[None]:
    """Holds a folder by a file that only one process can make."""
    logging.warning(
        "%s has no locks of the operating system: the file %s in it keeps other runs "
        "out; should a run on another machine be killed, delete that file.",
        folder,
        _OWNER,
    )
    path, me = folder / _OWNER, _identity(os.getpid())
    for _ in range(3):  # others may remove what a dead process left, too
        try:
            with open(path, "x") as file:  # which follows no link
                file.write(me)
            break
        except FileExistsError:
            _remove_dead(path)
    else:
        raise _busy(folder, "one that started just now")
    try:
        yield
    finally:
        if _read(path) == me:
            path.unlink(missing_ok=True)


def _identity(process: int) -> str:
    """Names a process: machine, number, and when it started (numbers are reused)."""
    try:
        # After the command, which may hold anything, the 20th field is the start.
        told = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
        start = told.split()[19]
    except (OSError, IndexError):  # no such system, or no such process
        start = "?"
    return f"{socket.gethostname()} {process} {start}"


def _remove_dead(path: epath.Path) -> None:
    """Removes the file of a process that is no more; BlockingIOError if it may live."""
    owner = _read(path)
    host, process, *_ = [*owner.split(" "), "", ""]
    if not _dead(owner, host, process):
        told = f"process {process or 'unknown'} on {host or 'an unknown machine'}"
        more = f" If it is no more, delete {path}."
        raise _busy(path.parent, told, more)
    aside = path.with_name(f"{_OWNER}-{secrets.token_hex(16)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:  # another process did the same
        return
    if _read(aside) != owner:  # and has already made its own: give it back
        with contextlib.suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _dead(owner: str, host: str, process: str) -> bool:
    if host != socket.gethostname() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's
        pass
    now = _identity(int(process))
    return "?" not in now + owner and now != owner


def _read(path: epath.Path) -> str:
    """Returns the first line of the file of a process, '' if there is none."""
    try:
        with open(files.own_file(path, os.O_RDONLY), errors="replace") as file:
            return file.read(512).partition("\n")[0].strip()
    except FileNotFoundError:
        return ""
