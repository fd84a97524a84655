"""Reads state dicts from files; torch only where a file needs it."""

import argparse
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.convert import _entries, _formats, _numpy_pickles
from jaxrobust.runtime import reading, safetensors

# What torch writes has many endings: PCL's `.pth.tar`, FPD's `.pkl`.
_OF_TORCH = ".pt .pth .pth.tar .pkl .ckpt .t7 .tar .bin .th"
SUFFIXES = (*_OF_TORCH.split(), ".npz", ".safetensors")
_SHOWN = 10  # names and shapes in a message


class Checkpoint(NamedTuple):
    """What a file holds: a state dict by torch's names.

    `options` are arguments of the training program that sspnet saves beside it; `notes`
    say what was taken of the file, left out and changed.
    """

    arrays: dict[str, np.ndarray]
    options: dict[str, Any]
    notes: tuple[str, ...] = ()


def stem(path: pathlib.Path) -> str:
    """Returns a checkpoint's file name without its suffix; '' for another file."""
    endings = [s for s in SUFFIXES if path.name.lower().endswith(s)]
    return path.name[: -len(max(endings, key=len))] if endings else ""


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints below a folder, sorted, without hidden ones."""
    files = (path for path in folder.rglob("*") if path.is_file() and stem(path))
    found = sorted(p for p in files if not _is_hidden(p.relative_to(folder)))
    if not found:
        raise ValueError(f"no {', '.join(SUFFIXES)} file in {folder}.")
    return found


def _is_hidden(path: pathlib.Path) -> bool:
    """Whether it is of a program's own, as `.git` and `._weights.pt` are.

    A name that starts with more than one dot is somebody's idea of a name.
    """
    return any(part.startswith(".") and part[1:2] != "." for part in path.parts)


def read(path: str | os.PathLike[str], entry: str | None = None) -> Checkpoint:
    """Reads a checkpoint.

    What torch wrote is loaded with `weights_only=True`: a file that would run code is
    refused. The dict of weights is looked for in dicts around it (`{'net': ...}`), the
    trained network before averages of it. Sizes are looked at before memory is taken.

    Args:
      path: a file with one of `SUFFIXES`.
      entry: which dict of the file to take, `ema` or `ema.state_dict`.

    Raises:
      ValueError: naming the file, for another kind, a damaged one, or no weights.
      ImportError: if the package that reads it is missing.
      FileNotFoundError: if there is no such file.
    """
    path = pathlib.Path(path)
    if not stem(path):
        raise ValueError(f"{path}: must be one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    _told(path, _formats.check)
    options: dict[str, Any] = {}
    readers = {".npz": _formats.read_npz, ".safetensors": _read_safetensors}
    if reader := readers.get(path.suffix.lower()):
        loaded: Any = _told(path, reader)
    else:
        _told(path, _formats.check_torch_zip)
        loaded, options = _load_torch(path)
    try:
        found = _entries.find(loaded, entry)
        arrays, notes = _as_float(found.arrays, path.stat().st_size)
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from None
    if found.entry:
        notes.insert(0, f"took the entry {found.entry!r}")
    if found.others:
        notes.append(f"left out {_entries.listed(found.others)}")
    return Checkpoint(arrays, options, tuple(notes))


def contents(arrays: Mapping[str, np.ndarray]) -> str:
    """Lists names and shapes, not all of many."""
    names = [f"{name} {tuple(value.shape)}" for name, value in arrays.items()]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _told(path: pathlib.Path, reader: Callable[[pathlib.Path], Any]) -> Any:
    """Reads, and names the file in whatever goes wrong."""
    try:
        return reader(path)
    except Exception as error:  # numpy's own and those of the zip inside
        raise ValueError(f"{path} is not readable ({_first(error)}).") from None


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    return safetensors.decode(path.read_bytes())


def _load_torch(path: pathlib.Path) -> tuple[Any, dict[str, Any]]:
    torch = _formats.import_torch(f"reading {path}")
    try:
        plain = torch.serialization.safe_globals(_plain_values())
        with plain, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's own errors and torch's alike
        raise ValueError(
            f"{path} is no file of plain weights and is not opened ({_why(error)}); "
            "save it again with torch.save(model.state_dict(), path)."
        ) from None
    options = loaded.get("args") if isinstance(loaded, dict) else None
    return loaded, vars(options) if isinstance(options, argparse.Namespace) else {}


def _plain_values() -> list[Any]:
    """Returns what may stand beside weights: it holds values and runs nothing.

    `{'net': ..., 'acc': accuracy}` often has a number of NumPy's for the accuracy. The
    pairs are other names of the same: of older versions of Python.
    """
    paths = [pathlib.PosixPath, (pathlib.PosixPath, "pathlib.PosixPath")]
    paths += [(pathlib.PosixPath, "pathlib._local.PosixPath")]
    return [argparse.Namespace, *_numpy_pickles.stand_ins(), *paths]


def _why(error: Exception) -> str:
    """Says what a pickle asks for, where that is why it was refused."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    return f"it holds {wanted[1][:80]}" if wanted else _first(error)


def _as_float(
    given: Mapping[str, Any], size: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns arrays or tensors in NumPy, floating ones in float32, and what changed.

    What says it is far larger than the file of `size` bytes is not made.
    """
    room = 8 * size + (64 << 20)
    arrays, cast = {}, set()
    for name, value in given.items():
        kind = str(value.dtype).removeprefix("torch.")
        room -= 4 * int(np.prod([int(n) for n in value.shape], dtype=object))
        if room < 0:
            raise ValueError(
                f"says that {name} is {tuple(value.shape)}, more than a file of {size} "
                "bytes holds"
            )
        if getattr(value, "is_quantized", False):
            raise ValueError(f"holds quantised weights ({name}); dequantise them first")
        if hasattr(value, "detach"):
            try:
                value = value.detach()
                value = (value.float() if value.is_floating_point() else value).numpy()
            except Exception as error:
                raise ValueError(f"has no values in {name} ({_first(error)})") from None
        if kind.startswith(("float", "bfloat")) and kind != "float32":
            cast.add(kind)
            with np.errstate(over="ignore"):  # what is infinite is told elsewhere
                value = np.asarray(value).astype(np.float32)
        arrays[name] = np.asarray(value)
    return arrays, [f"{kind} weights became float32" for kind in sorted(cast)]


def _first(error: Exception) -> str:
    return reading.first_line(error)[:120]
