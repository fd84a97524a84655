"""Signs that a training gives of itself, each with its numbers."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust.evaluation import statistics
from jaxrobust.evaluation.flags import RaisedFlag, filled

# Robust accuracy that wavers while the rate is high (to a half on MNIST), or falls late
# by overfitting, keeps more of its best.
LOST_SHARE = 0.25
LEAST_FALL = 0.1
# Where clean accuracy falls with it, the training as a whole went wrong.
KEPT_SHARE = 0.8

_SENTENCES = {
    "catastrophic_overfitting": "In training, the robust accuracy of held-out images "
    "fell from {best:.1%} (step {best_step:,}) to {left:.1%} (step {step:,}), with "
    "{clean:.1%} of them right as they are: the network has learned to resist its "
    "training attack alone. Checkpoints from before are kept (best_robust); "
    "attacks of more steps, objective fast with start=noise or grad_align, or a lower "
    "rate may avoid it."
}
_flag = functools.partial(filled, _SENTENCES)


def robustness_lost(rows: Sequence[Mapping[str, Any]], n: int) -> list[RaisedFlag]:
    """Flags the first validation at which robust accuracy has collapsed.

    That is, it is under a quarter of its best and ten points below, by more than luck
    of `n` images (their 95% intervals do not meet), and clean accuracy is not (Wong et
    al., ICLR 2020, arXiv 2001.03994, section 5.3, "catastrophic overfitting").

    Args:
      rows: of metrics.jsonl, in the order of steps; those without
        `validation/robust_accuracy` and `validation/accuracy`, or with NaN for them,
        are passed over.
      n: the number of held-out images.
    """
    best, best_step, clean_then = -1.0, 0, 0.0
    for row in rows:
        robust, clean = (row.get(f"validation/{k}accuracy") for k in ("robust_", ""))
        if robust is None or clean is None or not math.isfinite(robust + clean):
            continue
        if robust > best:
            best, best_step, clean_then = robust, row["step"], clean
            continue
        low = statistics.wilson_interval(round(best * n), n)[0]
        high = statistics.wilson_interval(round(robust * n), n)[1]
        lost = robust < min(LOST_SHARE * best, best - LEAST_FALL) and high < low
        if lost and clean >= KEPT_SHARE * clean_then:
            told = {"best": best, "best_step": best_step, "left": robust}
            told |= {"step": row["step"], "clean": clean}
            return [_flag("catastrophic_overfitting", minor=True, **told)]
    return []
