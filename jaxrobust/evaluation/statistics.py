"""Intervals for shares of examples."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool


def wilson_interval(
    successes: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns Wilson's two-sided score interval, in [0, 1], for `successes` of `n`.

    Raises:
      ValueError: if `n` is not positive or `successes` is not between 0 and `n`.

    Reference:
      Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(
            f"`successes` must be between 0 and a positive `n`, got {successes} of {n}."
        )
    z = _quantile(confidence)
    centre = successes + z**2 / 2
    half = z * math.sqrt(successes * (n - successes) / n + z**2 / 4)
    # At the ends the two are equal, but for rounding.
    low = 0.0 if successes == 0 else (centre - half) / (n + z**2)
    return float(low), 1.0 if successes == n else float((centre + half) / (n + z**2))


def paired_interval(
    only_a: int, only_b: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns Tango's score interval for the difference of two paired shares.

    The ends are the differences d, in [-1, 1], at which the score statistic

        (only_a - only_b - n d) / sqrt(n (2 q + d (1 - d)))

    is the normal quantile, with q the likeliest share of `only_b` examples given d. It
    keeps its level where few examples differ; where none does, the ends are
    -+ z^2 / (n + z^2). Of n examples, `only_a` count in the first share alone, `only_b`
    in the second.

    Raises:
      ValueError: if a number is negative, or they do not fit into a positive `n`.

    Reference:
      Tango 1998, Statistics in Medicine 17, 891-908, equations 5 to 8.
    """
    if min(only_a, only_b) < 0 or n < 1 or only_a + only_b > n:
        raise ValueError(
            "`only_a` and `only_b` must be at least 0, and together at most a positive "
            f"`n`, got {only_a}, {only_b} and {n}."
        )
    z = _quantile(confidence)
    observed = (only_a - only_b) / n

    def score(d: float, side: int) -> float:
        spread = 2 * _likeliest(only_a, only_b, n, d) + d * (1 - d)
        return only_a - only_b - n * d + side * z * math.sqrt(max(0.0, n * spread))

    # Where all examples agree or all differ one way, the statistic is 0 / 0 at the
    # observed difference; the equation has a closed form then.
    if only_a + only_b == 0:
        return -(z**2) / (n + z**2), z**2 / (n + z**2)
    if n in (only_a, only_b):
        inner = (n - z**2) / (n + z**2)
        return (inner, 1.0) if only_a else (-1.0, -inner)
    from scipy import optimize  # half a second, and few evaluations come here

    low = optimize.root_scalar(score, args=-1, bracket=(-1.0, observed)).root
    high = optimize.root_scalar(score, args=1, bracket=(observed, 1.0)).root
    return float(low), float(high)


def _quantile(confidence: float) -> float:
    """Returns z such that a normal number lies in [-z, z] with that probability."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _likeliest(only_a: int, only_b: int, n: int, d: float) -> float:
    """Returns the share of `only_b` that is likeliest if the difference is d."""
    linear = (2 * n - only_a + only_b) * d - only_a - only_b
    constant = -only_b * d * (1 - d)
    root = math.sqrt(max(0.0, linear**2 - 8 * n * constant))
    return (root - linear) / (4 * n)


def mcnemar(only_a: int, only_b: int) -> float:
    """Returns the exact p-value that two paired shares are equal (McNemar 1947).

    Two-sided: under it each example that counts in one share alone is a fair coin.
    """
    if only_a + only_b == 0:
        return 1.0
    from scipy import stats  # a second

    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for being several, in the order given.

    Where all below 5 % are taken as differences, the chance that any of them is none is
    at most 5 %, however the tests depend on each other.

    Reference:
      Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(1.0, highest)
    return adjusted


def share(flags: Bool[np.ndarray, "N"], name: str) -> dict[str, Any]:
    """Describes a share as results.json does: `name`, `ci95`, `n`."""
    low, high = wilson_interval(int(flags.sum()), len(flags))
    return {name: float(flags.mean()), "ci95": [low, high], "n": len(flags)}
