"""The user's caches, where the XDG base directory specification puts them."""

import os
import pathlib


def folder(kind: str) -> pathlib.Path:
    """Returns the folder of one kind of files; it need not be there."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "jaxrobust" / kind
