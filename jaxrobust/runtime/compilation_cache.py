"""Compiled programs on disk, so that the next run does not compile them again."""

import os

import jax
from absl import logging

from jaxrobust.runtime import caches, files

SHORTEST = 0.5  # seconds of compilation that are worth a file
HELP = (
    "Where compiled programs are kept between runs; by default "
    "JAX_COMPILATION_CACHE_DIR, else `jaxrobust` in the user's cache. Empty turns that "
    "off."
)


def use(folder: str | None = None) -> None:
    """Keeps this process's compiled programs in a folder; for command lines.

    Args:
      folder: made if it is not there, `gs://` too; empty for none; None for the one in
        `JAX_COMPILATION_CACHE_DIR`, else `jaxrobust` in the user's cache. One that
        cannot be written is told in a warning and not used: no run needs it.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR") if folder is None else folder
    own = caches.folder() if folder is None and not given else None
    there, problem = str(own or given or ""), None
    try:
        if there:
            there = str(files.expand(there))
            # What is loaded from there is run; a folder that was named is trusted.
            found = caches.problem(there, private=own is not None)
            problem = found and f"{there} {found}"
        elif folder is None:
            problem = caches.NO_HOME
    except ValueError as error:
        problem = str(error)
    if problem:
        logging.warning(
            "compiled programs are not kept: %s; set --compilation_cache or "
            "JAX_COMPILATION_CACHE_DIR to another folder.",
            problem,
        )
    # None also turns off what JAX read from the environment by itself.
    jax.config.update("jax_compilation_cache_dir", None if problem else there or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
