"""Radii as configs write them."""

import math
from fractions import Fraction

STEP_SHARE = 2.5  # steps x step size over the radius, as Madry et al. 2018 use
_LARGEST = 10**9  # far above the size of any image; float32 holds its square
_LONGEST = 64


def parse_radius(value: str | float, name: str = "eps") -> float:
    """Reads `'8/255'`, `'0.3'` or a number of a config's field `name`.

    Raises:
      ValueError: if it is no number or fraction, negative, not finite or above 1e9.
    """
    return float(exact(value, name))


def exact(value: str | float, name: str = "eps") -> Fraction:
    """Reads a radius without rounding; see `parse_radius`."""
    try:
        radius = Fraction(-1) if isinstance(value, bool) else _read(value)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        radius = Fraction(-1)
    if not 0 <= radius <= _LARGEST:
        raise ValueError(
            f"`{name}` must be a number of at least 0 or a fraction such as '8/255', "
            f"got {value!r}."
        )
    return radius


def _read(value: str | float) -> Fraction:
    if not isinstance(value, str):
        return Fraction(value)
    parts = value.split("/")
    # As floats first: written out exactly, 1e-999999999 would take all memory.
    sizes = [float(part) for part in parts]
    if len(value) > _LONGEST or len(parts) > 2 or not all(map(math.isfinite, sizes)):
        raise ValueError
    if not sizes[-1] and len(parts) == 2:
        raise ZeroDivisionError
    if not sizes[0]:
        return Fraction(0)
    top, bottom, *_ = *map(Fraction, parts), Fraction(1)
    return top / bottom
