"""The user's caches, where the XDG base directory specification puts them.

Compiled programs are kept in one, so that the next run does not compile them again.
"""

import contextlib
import os
import pathlib
import secrets
import stat
import tempfile

import jax
from absl import logging
from etils import epath

from jaxrobust.runtime import files

NO_HOME = (
    "no folder of the user's is known (neither XDG_CACHE_HOME nor HOME is set to a "
    "path in full)"
)
_SHORTEST = 0.5  # seconds of compilation that are worth a file
HELP = (
    "Where compiled programs are kept between runs; by default "
    "JAX_COMPILATION_CACHE_DIR, else `jaxrobust` in the user's cache. Empty turns that "
    "off."
)


def folder(kind: str = "") -> pathlib.Path | None:
    """Returns the folder of one kind of files; it need not be there.

    None where the user has none: a cache must not be made in the current folder, whose
    files others may have put there.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification says to ignore it
        home = os.path.expanduser("~")
        # Without HOME and passwd `~` stays; with an empty HOME it is the root.
        if not os.path.isabs(home) or os.environ.get("HOME") == "":
            return None
        base = os.path.join(home, ".cache")
    return pathlib.Path(base) / "jaxrobust" / kind


def problem(path: epath.PathLike, *, private: bool) -> str | None:
    """Makes a cache folder, `gs://` too; says why it cannot be used, None if it can.

    A `private` one is refused where others can write in it: compiled programs are run.
    """
    path = epath.Path(path)
    try:
        if files.is_remote(path):
            trial = path / f".trial-{secrets.token_hex(16)}"
            path.mkdir(parents=True, exist_ok=True)
            trial.write_text("")
            trial.unlink()
            return None
        os.makedirs(path, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        others = private and _others_write(path)
    except Exception as error:  # of a bucket's client too
        return f"cannot be written ({type(error).__name__}: {error})"
    return "can be written by other users" if others else None


def _others_write(path: epath.Path) -> bool:
    """Says whether another user can put files into a folder, or replace it."""
    trusted = {0, os.geteuid()}
    home = os.path.expanduser("~")
    if os.path.isabs(home):  # else there is none, and `~` would be in this folder
        with contextlib.suppress(OSError):
            trusted.add(os.stat(home).st_uid)
    here, above = os.stat(path), os.stat(path.parent)
    open_above = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
    owners = {here.st_uid, above.st_uid}
    return bool(here.st_mode & stat.S_IWOTH or open_above or owners - trusted)


def keep_programs(where: str | None = None) -> None:
    """Keeps this process's compiled programs in a folder; for command lines.

    It is made if it is not there, `gs://` too; empty is none; None is the one in
    `JAX_COMPILATION_CACHE_DIR`, else `jaxrobust` in the user's cache. One that cannot
    be written is told in a warning and not used: no run needs it.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR") if where is None else where
    own = folder() if where is None and not given else None
    there, told = str(own or given or ""), None
    try:
        if there:
            there = str(files.expand(there))
            # What is loaded from there is run; a folder that was named is trusted.
            found = problem(there, private=own is not None)
            told = found and f"{there} {found}"
        elif where is None:
            told = NO_HOME
    except ValueError as error:
        told = str(error)
    if told:
        logging.warning(
            "compiled programs are not kept: %s; set --compilation_cache or "
            "JAX_COMPILATION_CACHE_DIR to another folder.",
            told,
        )
    # None also turns off what JAX read from the environment by itself.
    jax.config.update("jax_compilation_cache_dir", None if told else there or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)
