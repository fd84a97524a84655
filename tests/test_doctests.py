"""Every example in a docstring does what it says."""

import doctest
import importlib
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, losses, models, threat

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "jaxrobust").rglob("*.py")
    if ">>> " in path.read_text()
}
# What an example need not import.
GIVEN = {
    "jax": jax,
    "jnp": jnp,
    "attacks": attacks,
    "losses": losses,
    "models": models,
    "threat": threat,
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_examples(name):
    with np.printoptions(precision=3):
        found = doctest.testmod(importlib.import_module(name), extraglobs=GIVEN)
    assert found.attempted
    assert not found.failed


LOSSES = [
    name
    for name, loss in vars(losses).items()
    if callable(loss) and name not in ("comparable", "spacing", "are_probabilities")
]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_says_its_formula_and_shows_itself(name):
    text = inspect.cleandoc(getattr(losses, name).__doc__)
    first, formula, _ = text.split("\n\n", 2)
    assert first.endswith(".")
    assert formula.startswith(" " * 4), "the formula stands apart, after the sentence"
    assert f"losses.{name}(" in text.split(">>>", 1)[1]
    assert "`[" in text, "shapes"
