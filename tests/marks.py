"""Marks that several test files use."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def full_but(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Values of a parametrisation, those that are not in `quick` marked `full`.

    A value may be a tuple of several arguments.
    """
    found = []
    for value in values:
        marks = () if value in quick else (pytest.mark.full,)
        parts = value if isinstance(value, tuple) else (value,)
        found.append(pytest.param(*parts, marks=marks))
    return found
