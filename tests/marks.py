"""Marks that several test files use."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def full_but(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Values of a parametrisation, those that are not in `quick` marked `full`.

    A value may be a tuple of several arguments.

    Raises:
      ValueError: if one of `quick` is no value: its test would not be run.
    """
    values, found = list(values), []
    if lost := [value for value in quick if value not in values]:
        raise ValueError(f"{lost} is not among the values of a test.")
    for value in values:
        marks = () if value in quick else (pytest.mark.full,)
        parts = value if isinstance(value, tuple) else (value,)
        found.append(pytest.param(*parts, marks=marks))
    return found
