"""Reads state dicts from files; torch and safetensors only where a file needs them."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

SUFFIXES = (".pt", ".pth", ".npz", ".safetensors")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_state_dict(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads torch's names to arrays from a file.

    `.pt` and `.pth` are loaded with `weights_only=True`: a file that would run code is
    refused. A dict around the state dict (`{'state_dict': ...}`) is opened.

    Args:
      path: a `.pt`, `.pth`, `.npz` or `.safetensors` file.

    Raises:
      ValueError: for another kind of file, or one without a state dict.
      ImportError: if the package that reads it is missing.
      FileNotFoundError: if there is no such file.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: must be one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            f"reading {path} needs safetensors: pip install 'jaxrobust[torch]'."
        ) from None
    return load_file(path)


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            f"reading {path} needs torch: pip install 'jaxrobust[torch]'."
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's own errors and torch's alike
        raise ValueError(
            f"{path} is no file of plain weights and is not opened ({_first(error)}); "
            "save it again with torch.save(model.state_dict(), path)."
        ) from None
    return {
        name: value.detach().float().numpy()
        if value.is_floating_point()
        else value.numpy()
        for name, value in _unwrap(loaded, path).items()
        if isinstance(value, torch.Tensor)
    }


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
