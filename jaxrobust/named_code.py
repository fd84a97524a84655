"""Code of a user's own, brought in by name: `package.module:function`.

Importing runs the module. So a name counts only where the caller gave it, in their own
config or arguments; what came from a file goes through `refuse` first.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# Fields of a config that may name code; `create_stored` looks at the network's.
_NAMING = ("name", "attack", "attack_name", "twin")
_FILES = ("folder:", "npz:", "tfds:")  # of data


def names(name: object) -> TypeGuard[str]:
    """Whether a text has the form of such a name."""
    return isinstance(name, str) and _FORM.fullmatch(name) is not None


def load(kind: str, name: str) -> Callable[..., Any]:
    """Imports the function that a name stands for.

    Args:
      kind: what it should be, for errors: 'attack', 'model' ...
      name: `package.module:function`, given by the caller.

    Raises:
      ValueError: if there is no such module or function.
      TypeError: if what is there cannot be called.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}.") from None
    if not callable(found):
        raise TypeError(
            f"{kind} {name!r} must be a function, and is {type(found).__name__}."
        )
    return found


def refuse(config: Mapping[str, Any]) -> None:
    """Raises for a config from a file that names code beside its network.

    Raises:
      ValueError: with the field and the name.
    """
    for field, value in _named(config):
        raise ValueError(
            f"its {field} is {value!r}, code from outside jaxrobust, and a file's "
            "code is not run"
        )


def _named(tree: Any, place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        where = f"{place}{key}"
        if isinstance(value, Mapping):
            yield from _named(value, f"{where}.")
        elif key in _NAMING and names(value) and not _may_be_named(where, value):
            yield where, value


def _may_be_named(where: str, value: str) -> bool:
    """Whether others look at this name, or it stands for files."""
    return where == "model.name" or (where == "data.name" and value.startswith(_FILES))
