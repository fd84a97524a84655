"""Evaluation: attack suites, per-example worst case, intervals, curves."""

from jaxrobust.evaluation import detectors as detectors
from jaxrobust.evaluation import suite as suite
from jaxrobust.evaluation.autoattack import autoattack as autoattack
from jaxrobust.evaluation.diagnose import diagnose as diagnose
from jaxrobust.evaluation.evaluator import evaluate as evaluate
from jaxrobust.evaluation.setting import run_eval_step as run_eval_step
from jaxrobust.evaluation.statistics import wilson_interval as wilson_interval
from jaxrobust.evaluation.step import EvalRun as EvalRun
from jaxrobust.evaluation.step import make_eval_step as make_eval_step
from jaxrobust.evaluation.verify import Ball as Ball
from jaxrobust.evaluation.verify import check_ball as check_ball
