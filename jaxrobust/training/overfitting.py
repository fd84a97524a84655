"""Watches validations for catastrophic overfitting, over restarts too."""

from collections.abc import Mapping

from etils import epath

from jaxrobust.evaluation import flags_of_training
from jaxrobust.results.files import read_metrics


class Watch:
    """Looks at each validation of a run beside those before it."""

    def __init__(self, workdir: epath.PathLike, start: int, n: int) -> None:
        """Reads the validations up to step `start`, each of `n` images."""
        rows = read_metrics(epath.Path(workdir) / "metrics.jsonl")
        self._rows = [row for row in rows if row["step"] <= start]
        self._n = n
        self._told = bool(flags_of_training.robustness_lost(self._rows, n))

    def saw(self, step: int, validated: Mapping[str, float]) -> str:
        """Takes in a validation; returns what is to be said, once in a run."""
        scalars = {f"validation/{k}": v for k, v in validated.items()}
        self._rows.append({"step": step, **scalars})
        found = flags_of_training.robustness_lost(self._rows, self._n)
        if not found or self._told:
            return ""
        self._told = True
        return found[0]["message"]
