"""Code of a user's own, brought in by name: `package.module:name`.

Importing runs the module. So a name counts only where the caller gave it, in their own
config or arguments; what came from a file goes through `refuse` or `marked` first.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from jaxrobust._checks import did_you_mean

# What is imported and what counts as a name of code have one form.
_SPEC = re.compile(r"([\w.]+):([\w.]+)")
# Fields of a config that may name code; `create_stored` looks at the network's.
_NAMING = ("name", "attack", "attack_name", "twin", "writers")
_FILES = ("folder:", "npz:", "tfds:")  # of data


class Stored(str):
    """A text that came from a file: it never names code."""


def names(name: object) -> TypeGuard[str]:
    """Whether a text has the form of such a name."""
    return isinstance(name, str) and _SPEC.fullmatch(name) is not None


def within(text: str) -> bool:
    """Whether a text holds such a name anywhere, as a list or table in it could."""
    return _SPEC.search(text) is not None


def load(kind: str, name: str) -> Callable[..., Any]:
    """Imports a function as `find`; TypeError for what cannot be called.

    `kind` is what it should be, for errors: 'attack', 'model' ...
    """
    found = find(name, kind)
    if not callable(found):
        raise TypeError(
            f"{kind} {name!r} must be a function, and is {type(found).__name__}."
        )
    return found


def find(spec: str, what: str) -> Any:
    """Imports `package.module` and returns what it calls `name`.

    Args:
      spec: `package.module:name`; the name may have dots (`Class.method`).
      what: the field or argument that holds it, for errors.

    Raises:
      ValueError: for another form, a name that came from a file, or one that is not
        there (with the nearest).
    """
    match = _SPEC.fullmatch(spec) if isinstance(spec, str) else None
    if match is None:
        raise ValueError(f"{what} must be package.module:name, got {spec!r}.")
    if isinstance(spec, Stored):
        raise ValueError(
            f"{what} {spec!r} is code that a file names, and it is not run; to run it, "
            "write the name into the config yourself."
        )
    module, path = match.groups()
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{what} {spec!r}: module {module!r} cannot be imported ({error}); run in "
            "the folder that holds it, or install it."
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{what} {spec!r}: module {module!r} fails when it is imported: "
            f"{said(error)}"
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            hint = did_you_mean(name, dir(found))
            where = getattr(found, "__name__", type(found).__name__)
            raise ValueError(f"{what} {spec!r}: {where} has no {name!r}. {hint}")
        found = getattr(found, name)
    return found


def said(error: BaseException) -> str:
    """Returns what an error of someone's code says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def refuse(config: Mapping[str, Any], place: str = "") -> None:
    """Raises ValueError for a config from a file that names code beside its network.

    `place` is of the table in a whole config, with a dot at its end.
    """
    for key, value in config.items():
        where = f"{place}{key}"
        if isinstance(value, Mapping):
            refuse(value, f"{where}.")
            continue
        files = where == "data.name" and str(value).startswith(_FILES)
        if key not in _NAMING or where == "model.name" or files:
            continue
        if any(names(one) for one in (value if _is_list(value) else [value])):
            raise ValueError(
                f"its {where} is {value!r}, code from outside jaxrobust, and a file's "
                "code is not run"
            )


def _is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)


def marked(tree: Any) -> Any:
    """Returns a config from a file, its texts of that form such that no code is run."""
    if isinstance(tree, Mapping):
        return {key: marked(value) for key, value in tree.items()}
    if _is_list(tree):
        return [marked(value) for value in tree]
    return Stored(tree) if names(tree) else tree
