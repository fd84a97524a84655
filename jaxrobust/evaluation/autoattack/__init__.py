"""AutoAttack: an ensemble of attacks, worst case per example."""

from jaxrobust.evaluation.autoattack.ensemble import autoattack as autoattack
from jaxrobust.evaluation.autoattack.result import Result as Result
from jaxrobust.evaluation.autoattack.result import StageResult as StageResult
