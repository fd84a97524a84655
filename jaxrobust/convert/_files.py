"""Reads state dicts from files; torch and safetensors only where a file needs them."""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# What torch writes has many endings: PCL's `.pth.tar`, FPD's `.pkl`.
SUFFIXES = (".pt", ".pth", ".pth.tar", ".pkl", ".npz", ".safetensors")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes:
      arrays: torch's names to arrays, the state dict.
      options: arguments of the training program that sspnet saves beside it.
    """

    arrays: dict[str, np.ndarray]
    options: dict[str, Any]


def stem(path: pathlib.Path) -> str:
    """Returns a checkpoint's file name without its suffix; '' for another file."""
    endings = [suffix for suffix in SUFFIXES if path.name.endswith(suffix)]
    return path.name.removesuffix(max(endings, key=len)) if endings else ""


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints below a folder, sorted.

    Raises:
      ValueError: if there is none.
    """
    found = sorted(p for p in folder.rglob("*") if p.is_file() and stem(p))
    if not found:
        raise ValueError(f"no {', '.join(SUFFIXES)} file in {folder}.")
    return found


def read(path: pathlib.Path) -> Checkpoint:
    """Reads a checkpoint.

    What torch wrote is loaded with `weights_only=True`: a file that would run code is
    refused. A dict around the state dict (`{'state_dict': ...}`) is opened.

    Args:
      path: a file with one of `SUFFIXES`.

    Raises:
      ValueError: for another kind of file, or one without a state dict.
      ImportError: if the package that reads it is missing.
      FileNotFoundError: if there is no such file.
    """
    if not stem(path):
        raise ValueError(f"{path}: must be one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    if path.suffix == ".npz":
        return Checkpoint(_read_npz(path), {})
    if path.suffix == ".safetensors":
        return Checkpoint(_read_safetensors(path), {})
    return _read_torch(path)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except Exception as error:  # numpy's and those of the zip inside
        raise ValueError(f"{path} is not readable ({_first(error)}).") from None


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            f"reading {path} needs safetensors: pip install 'jaxrobust[torch]'."
        ) from None
    try:
        return load_file(path)
    except Exception as error:  # its own kind, which is no ValueError
        raise ValueError(f"{path} is not readable ({_first(error)}).") from None


def _read_torch(path: pathlib.Path) -> Checkpoint:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            f"reading {path} needs torch: pip install 'jaxrobust[torch]'."
        ) from None
    try:
        # A Namespace holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's own errors and torch's alike
        raise ValueError(
            f"{path} is no file of plain weights and is not opened ({_first(error)}); "
            "save it again with torch.save(model.state_dict(), path)."
        ) from None
    arrays = {
        name: value.detach().float().numpy()
        if value.is_floating_point()
        else value.numpy()
        for name, value in _unwrap(loaded, path).items()
        if isinstance(value, torch.Tensor)
    }
    options = loaded.get("args")
    return Checkpoint(
        arrays, vars(options) if isinstance(options, argparse.Namespace) else {}
    )


def _unwrap(loaded: Any, path: pathlib.Path) -> Mapping[str, Any]:
    """Opens dicts around the state dict."""
    while isinstance(loaded, Mapping):
        inside = [k for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)]
        if not inside:
            return loaded
        loaded = loaded[inside[0]]
    raise ValueError(f"{path} holds {type(loaded).__name__}, not a state dict.")


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
