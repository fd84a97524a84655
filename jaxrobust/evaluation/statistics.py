"""Intervals for shares of examples."""

import numpy as np
from jaxtyping import Bool
from scipy import stats


def wilson_interval(
    successes: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns Wilson's score interval for a binomial share.

    Args:
      successes: examples classified as labelled, 0 to `n`.
      n: examples.
      confidence: of the two-sided interval.

    Returns:
      Its ends, in [0, 1].

    Raises:
      ValueError: if `n` is not positive or `successes` is not between 0 and `n`.

    Reference:
      Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(
            f"`successes` must be between 0 and a positive `n`, got {successes} of {n}."
        )
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(
        confidence_level=confidence, method="wilson"
    )
    return float(interval.low), float(interval.high)


def share(flags: Bool[np.ndarray, "N"], name: str) -> dict[str, object]:
    """Describes a share as results.json does: `name`, `ci95`, `n`."""
    low, high = wilson_interval(int(flags.sum()), len(flags))
    return {name: float(flags.mean()), "ci95": [low, high], "n": len(flags)}
