"""Config files: Python files with a function `get_config`."""

import os
import pathlib
import sys
import traceback
import types
from typing import Any

from ml_collections import ConfigDict

from jaxrobust._checks import nearest
from jaxrobust.training.config import base

# Parts that programs read field by field; the others belong to what they name.
_PARTS = ("data", "train", "eval")


def split(text: str) -> tuple[str, str | None]:
    """Returns the file of `configs/x.py[:argument]`, and the argument if there is one.

    A file whose name has a colon in it is taken as it is.
    """
    file, colon, argument = text.partition(":")
    if not colon or os.path.isfile(text):
        return text, None
    return file, argument


def load(text: str) -> ConfigDict:
    """Runs `configs/x.py`, or `configs/x.py:argument` with `get_config(argument)`.

    A name alone, such as `quickstart`, is that of a config that comes with the package.

    Raises:
      ValueError: naming the file, and the line where one is wrong: if it is not there
        or is no Python, fails, has no `get_config`, or returns no config.
    """
    file, argument = split(os.path.expanduser(text))
    shipped = folder() / f"{file}.py"
    if file.isidentifier() and not os.path.exists(file) and shipped.is_file():
        file = str(shipped)
    module = _run(file)
    function = getattr(module, "get_config", None)
    if not callable(function):
        raise ValueError(f"config {file} has no function get_config().")
    found = _call(file, function, *([] if argument is None else [argument]))
    if isinstance(found, dict):
        found = _call(file, ConfigDict, found)
    if not isinstance(found, ConfigDict):
        raise ValueError(
            f"config {file}: get_config() must return a ConfigDict, got "
            f"{type(found).__name__}."
        )
    _check_parts(file, found)
    return found


def folder() -> pathlib.Path:
    """Returns where the configs are: beside the package, or in it once installed."""
    package = pathlib.Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _run(file: str) -> types.ModuleType:
    try:
        source = pathlib.Path(file).read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"config {file}: {reason}.{_nearest(file)}") from None
    try:
        code = compile(source, file, "exec")
    except SyntaxError as error:
        where = f"{file}, line {error.lineno}" if error.lineno else file
        raise ValueError(f"config {where}: {error.msg}.") from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"config {file} is no Python file ({error}).") from None
    module = types.ModuleType("jaxrobust_config")
    module.__file__ = file
    sys.modules[module.__name__] = module  # where dataclasses look
    _call(file, exec, code, vars(module))
    return module


def _call(file: str, function: Any, *arguments: Any) -> Any:
    """Calls what the file says; an error is told with the line it comes from."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        where = f"{file}, line {lines[-1]}" if lines else file
        text = " ".join(str(error).split()) or "no reason given"
        raise ValueError(f"config {where}: {type(error).__name__}: {text}") from error


def _nearest(file: str) -> str:
    """Returns a hint at a file with a similar name, in its folder or in configs/."""
    path = pathlib.Path(file)
    if path.exists():
        return ""
    folders = [path.parent, pathlib.Path("configs")]
    there = {p.name: p for place in reversed(folders) for p in place.glob("*.py")}
    if file.isidentifier():
        there |= {p.name: p.stem for p in folder().glob("*.py")}
    near = nearest(path.with_suffix(".py").name, there, 0.6)
    return f" Did you mean {there[near]}?" if near else ""


def _check_parts(file: str, config: ConfigDict) -> None:
    """Refuses a config that lacks what every run needs."""
    known = base()
    lacking = [name for name in known if name not in config]
    for part in _PARTS:
        own = config.get(part, known[part])
        if not isinstance(own, ConfigDict):
            raise ValueError(
                f"config {file}: `{part}` must be a table of fields, got {own!r:.60}."
            )
        lacking += [f"{part}.{name}" for name in known[part] if name not in own]
    if lacking:
        raise ValueError(
            f"config {file} lacks {', '.join(lacking[:5])}"
            f"{' ...' if len(lacking) > 5 else ''}; start from "
            "jaxrobust.training.config.base(), which has every field."
        )
