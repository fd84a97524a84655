"""Adversarially robust image classifiers in JAX: models, attacks, defences.

The program parts (`jaxrobust.data`, `training`, `evaluation`, ...) are submodules to
import by name, so that the library alone stays cheap.
"""

from jaxrobust import analysis as analysis
from jaxrobust import array_types as array_types
from jaxrobust import attacks as attacks
from jaxrobust import certify as certify
from jaxrobust import defenses as defenses
from jaxrobust import losses as losses
from jaxrobust import models as models
from jaxrobust import threat as threat
from jaxrobust.attacks import RobustnessWarning as RobustnessWarning
from jaxrobust.runtime.cpu import tune_cpu as tune_cpu

__version__ = "0.1.0"
