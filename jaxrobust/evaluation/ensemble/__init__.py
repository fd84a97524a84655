"""AutoAttack: an ensemble of attacks, worst case per example."""

from jaxrobust.evaluation.ensemble.driver import autoattack as autoattack
from jaxrobust.evaluation.ensemble.result import Result as Result
from jaxrobust.evaluation.ensemble.result import StageResult as StageResult
