"""Adversarially robust image classifiers in JAX: models, attacks, defences."""

__version__ = "0.1.0"
