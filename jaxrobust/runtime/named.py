"""Code of others that `package.module:name` names.

Only what a caller's own config or arguments name is looked for here, never what a file
does.
"""

import difflib
import importlib
import re
from typing import Any

_SPEC = re.compile(r"([\w.]+):([\w.]+)")


def find(spec: str, what: str) -> Any:
    """Imports `package.module` and returns what it calls `name`.

    Args:
      spec: `package.module:name`; the name may have dots (`Class.method`).
      what: the field or argument that holds it, for errors.

    Raises:
      ValueError: for another form, or a name that is not there (with the nearest).
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(f"`{what}` must be package.module:name, got {spec!r}.")
    module, path = match.groups()
    found: Any = _import(module, spec, what)
    for name in path.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1, cutoff=0.0)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            where = getattr(found, "__name__", type(found).__name__)
            raise ValueError(f"`{what}` {spec!r}: {where} has no {name!r}.{hint}")
        found = getattr(found, name)
    return found


def _import(module: str, spec: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"`{what}` {spec!r}: module {module!r} cannot be imported ({error}); run "
            "in the folder that holds it, or install it."
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"`{what}` {spec!r}: module {module!r} fails when it is imported: "
            f"{said(error)}"
        ) from error


def said(error: BaseException) -> str:
    """Returns what an error of someone's code says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
