"""Attacks that cannot be compiled in a suite, as those of other libraries."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, losses
from jaxrobust.evaluation import suite

EPS = 0.1


class Step:
    """One step of sign gradient that looks at values, which no tracer has."""

    on_host = True

    def __call__(self, logits_fn, x, y, *, key=None, eps, scale=1.0):
        assert isinstance(x, jax.Array)
        slope = jax.grad(lambda x: losses.cross_entropy(logits_fn(x), y).sum())(x)
        moved = x + scale * eps * np.sign(np.asarray(slope))
        return jnp.asarray(np.clip(moved, 0, 1), x.dtype)


@pytest.fixture
def name(monkeypatch):
    monkeypatch.setitem(sys.modules, "theirs", types.SimpleNamespace(step=Step()))
    return "theirs:step"


def run(linear, folder, **attack):
    fields = linear.make_config(attacks=attack)
    return evaluation.evaluate(
        linear.model, linear.variables, fields, folder, dataset=linear.dataset
    )


def test_it_is_one_of_a_suite(linear, name, tmp_path):
    found = run(
        linear,
        tmp_path,
        theirs={"name": name, "norm": "linf", "eps": str(EPS)},
        ours={"name": "fgsm", "norm": "linf", "eps": str(EPS)},
    )
    theirs, ours = found["attacks"]
    assert theirs["robust_accuracy"] == ours["robust_accuracy"] < 1
    assert theirs["name"] == name


def test_its_images_are_checked_as_any(linear, name, tmp_path):
    with pytest.raises(ValueError, match=r"theirs|eps"):
        run(
            linear,
            tmp_path,
            theirs={"name": name, "norm": "linf", "eps": str(EPS), "scale": 3.0},
        )


def test_mistakes_are_told_before_any_work(name):
    with pytest.raises(TypeError, match="Unknown hyperparameter `scal`"):
        suite.read({"theirs": {"name": name, "eps": "0.1", "scal": 2.0}})
