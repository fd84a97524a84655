"""Weak networks in closed form: climbing finds what is there, batches tell."""

import functools

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.analysis import masking
from jaxrobust.evaluation import network, trial_attacks, verify
from tests.linear_toy import images, linear

BOUNDS = (0.0, 1.0)


def climb(logits_fn, x, y, *, eps, norm="linf", bounds=BOUNDS, **fields):
    ball = verify.Ball(eps, norm, bounds)
    gradient = functools.partial(masking.input_gradient, logits_fn)
    return trial_attacks.TrialSetting(logits_fn, gradient, x, y, ball, **fields).climb(
        x
    )


@pytest.mark.parametrize("n", [2, 5])
def test_only_a_network_of_single_images_is_the_same_among_others(n):
    x, logits_fn = images(n=n), linear([1.0, -2.0, 0.5])
    found = network.among_others(logits_fn, x, BOUNDS)
    chex.assert_trees_all_equal(found, logits_fn(x))

    def centred(x):
        return logits_fn(x - x.mean(0, keepdims=True))

    found = network.among_others(centred, x, BOUNDS)
    assert np.abs(found - centred(x)).max() > 1e-2


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_climbing_finds_what_can_be_found(norm):
    w, eps = np.array([1.0, -2.0, 0.5]), 0.05
    x, logits_fn = images(n=30), linear(w)
    score = np.asarray(logits_fn(x))[:, 1]
    y = jnp.asarray(score > 0, jnp.int32)
    dual = {"linf": 3.5, "l2": np.sqrt(5.25), "l1": 2.0}[norm]
    found = climb(logits_fn, x, y, eps=eps, step_size=eps / 2, steps=4, norm=norm)
    chex.assert_shape(found.correct, (5, 30))
    chex.assert_shape(found.zero, (4, 30))
    assert not found.zero.any()
    assert found.resists(0).all()
    robust = np.abs(score) > eps * dual
    assert 0 < robust.sum() < 30
    chex.assert_trees_all_equal(found.resists(), robust)
