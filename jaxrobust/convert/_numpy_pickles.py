"""NumPy's arrays and numbers in a pickle of weights, as plain data.

A crafted pickle can tell NumPy that its bytes are pointers to objects. So none of
NumPy's own constructors is called: stand-ins under their names keep what the file says,
and make arrays of plain numbers of it, by `np.frombuffer`.
"""

import math
import re
from typing import Any

import numpy as np

# Kind and size, as NumPy writes them: bool, whole numbers, floats, complex.
_PLAIN = re.compile(r"[biufc](1|2|4|8|16|32)")


class PlainDtype:
    """Stands for `numpy.dtype`."""

    def __init__(
        self, code: object, align: object = False, copy: object = True
    ) -> None:
        """Takes the arguments that NumPy pickles."""
        self._code, self._order, self._plain = code, "=", True

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Takes the order of bytes; fields and shapes inside make it no plain kind."""
        _, order, *parts = state
        self._order = order if order in ("<", ">") else "="
        self._plain = all(part is None for part in parts[:3])

    def dtype(self) -> np.dtype[Any] | None:
        """Returns the plain kind that it is; None for any other."""
        code = self._code
        if not self._plain or not isinstance(code, str) or not _PLAIN.fullmatch(code):
            return None
        return np.dtype(f"{self._order}{code}")


class Array:
    """Stands for `numpy.ndarray`; without a `shape` where it is no plain array."""

    def __init__(self, *arguments: object) -> None:
        """Takes, and needs, nothing: what is in it follows."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Makes the array; ValueError where the bytes are not those of its shape."""
        _, shape, kind, by_columns, content = state
        dtype = kind.dtype() if isinstance(kind, PlainDtype) else None
        if dtype is None or not isinstance(content, bytes):
            return
        if (
            math.prod(shape) * dtype.itemsize != len(content)
            or min(shape, default=1) < 0
        ):
            raise ValueError(f"an array {shape} of {dtype} has {len(content)} bytes")
        flat = np.frombuffer(content, dtype)
        self._value = flat.reshape(shape, order="F" if by_columns else "C")
        self.shape, self.dtype = self._value.shape, self._value.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns the array for NumPy."""
        return np.array(self._value, dtype)


def number(kind: object, content: object = b"") -> Any:
    """Stands for `numpy.core.multiarray.scalar`: a plain number, or None."""
    dtype = kind.dtype() if isinstance(kind, PlainDtype) else None
    if dtype is None or not isinstance(content, bytes) or not dtype.itemsize:
        return None
    [value] = np.frombuffer(content, dtype)  # a ValueError where it is no single one
    return value.item()


def no_bytes(*content: object) -> bytes:
    """Stands for `bytes`, which pickles call for empty ones alone."""
    if content:
        raise ValueError("bytes are made of something else")
    return b""


def stand_ins() -> list[tuple[Any, str]]:
    """Returns the stand-ins and the names in pickles that they answer to.

    Older versions of NumPy have the same under other names.
    """
    cores = ("numpy.core.multiarray", "numpy._core.multiarray")
    found: list[tuple[Any, str]] = [
        (PlainDtype, "numpy.dtype"),
        (Array, "numpy.ndarray"),
    ]
    found += [(no_bytes, f"{name}.bytes") for name in ("builtins", "__builtin__")]
    found += [(number, f"{core}.scalar") for core in cores]
    return found + [(Array, f"{core}._reconstruct") for core in cores]
