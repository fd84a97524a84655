"""Compiled programs on disk, so that the next run does not compile them again."""

import os
import uuid

import jax
from absl import logging
from etils import epath

SHORTEST = 0.5  # seconds of compilation that are worth a file


def default_folder() -> str:
    """Returns `JAX_COMPILATION_CACHE_DIR`, else `jaxrobust` in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.join(
        user, "jaxrobust"
    )


def use(folder: str) -> None:
    """Keeps this process's compiled programs in `folder`; for command lines.

    Args:
      folder: made if it is not there, `gs://` too; empty for none. One that cannot be
        written is told in a warning and not used: no run needs it.
    """
    problem = _problem(folder) if folder else None
    if problem:
        logging.warning(
            "compiled programs are not kept: %s cannot be written (%s); set "
            "--compilation_cache or JAX_COMPILATION_CACHE_DIR to another folder.",
            folder,
            problem,
        )
    # None also turns off what JAX read from the environment by itself.
    jax.config.update("jax_compilation_cache_dir", None if problem else folder or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)


def _problem(folder: str) -> str | None:
    """Says why a folder cannot be written, None if it can."""
    path = epath.Path(folder)
    trial = path / f".trial-{uuid.uuid4().hex}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        trial.write_text("")
        trial.unlink()
    except Exception as error:  # of a bucket's client too
        return f"{type(error).__name__}: {error}"
    return None
