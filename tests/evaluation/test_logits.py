"""Numbers of logits depend on the classes that decide and on nothing else."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.evaluation import logits as logits_of

EPS = float(jnp.finfo(jnp.float32).eps)


def some(seed=0, n=40):
    """Logits as of a network: leads of a few units."""
    return 4 * np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def padded(value):
    return lambda z: np.pad(z, ((0, 0), (0, 2)), constant_values=value)


SAME = {
    "as they are": lambda z: z,
    "padded with -30": padded(-30.0),
    "padded with -1e9": padded(-1e9),
    "padded with -1e30": padded(-1e30),
    "shifted by 1e3": lambda z: z + np.float32(1e3),
    "shifted by 1e6": lambda z: z + np.float32(1e6),
    "shifted by -1e7": lambda z: z - np.float32(1e7),
    "scaled by 1e-6": lambda z: z * np.float32(1e-6),
    "scaled by 1e6": lambda z: z * np.float32(1e6),
    "log-probabilities": lambda z: np.asarray(jax.nn.log_softmax(z)),
    "less the largest": lambda z: z - z.max(-1, keepdims=True),
    "bfloat16": lambda z: np.asarray(jnp.asarray(z, jnp.bfloat16), np.float32),
}


@pytest.mark.parametrize("change", SAME)
def test_what_decides_nothing_changes_nothing(change):
    z, fine = SAME[change](some()), change == "bfloat16"
    eps = float(jnp.finfo(jnp.bfloat16).eps) if fine else EPS
    y = jnp.zeros(len(z), jnp.int32)
    assert logits_of.relative_change(z, z, eps) == 0
    # Another program rounds the last digit in another way.
    assert logits_of.relative_change(z, np.nextafter(z, np.float32(9e9)), eps) < 1e-4
    other = SAME[change](some() * (1 + 0.5 * np.eye(6, dtype=np.float32)[0]))
    assert logits_of.relative_change(z, other, eps) > 0.1
    assert logits_of.saturation(z, y, eps).at_ceiling.mean() < 0.2


@pytest.mark.parametrize("change", ["as they are", "padded with -1e9", "bfloat16"])
def test_a_bounded_last_layer_has_a_ceiling(change):
    z = SAME[change](np.tanh(some()))
    eps = float(jnp.finfo(jnp.bfloat16).eps) if change == "bfloat16" else EPS
    found = logits_of.saturation(z, jnp.zeros(len(z), jnp.int32), eps)
    assert found.at_ceiling.mean() > 0.5


def test_relative_change():
    one = np.array([[1.0, -4.0], [2.0, 0.0]])
    assert logits_of.relative_change(one, one) == 0
    # The lead of the second goes from 2 to 0; the usual one is 3.5.
    other = np.array([[1.0, -4.0], [2.0, 2.0]])
    assert logits_of.relative_change(one, other) == pytest.approx(2 / 3.5)
    assert logits_of.relative_change(one, one + 7) == pytest.approx(0)
    assert logits_of.relative_change(one, one * np.nan) == np.inf


def test_rounding_is_that_of_the_logits_that_decide():
    z = np.array([[1.0, 8.0, -1e9], [1e6, 1.0, 0.0]])
    found = logits_of.rounding(z, np.array([0, 0]), 0.5)
    chex.assert_trees_all_equal(found, np.asarray([4.0, 5e5]))


def test_half_precision_probabilities_are_told():
    for dtype in (jnp.float16, jnp.bfloat16):
        z = jax.nn.softmax(some()).astype(dtype)
        assert logits_of.looks_like_probabilities(z)
        assert not logits_of.looks_like_probabilities(some().astype(dtype))


def test_saturation():
    logits = np.array([[0, 1, 0], [0, 0, 60], [60, 0, 0], [2, 59.99, 3]])
    found = logits_of.saturation(jnp.asarray(logits), jnp.asarray([1, 2, 1, 1]))
    chex.assert_trees_all_equal(found.certain, np.asarray([False, True, True, True]))
    chex.assert_trees_all_equal(found.no_loss, np.asarray([False, True, False, True]))
    chex.assert_trees_all_equal(found.at_ceiling, np.asarray([False, True, True, True]))


def test_probabilities_are_told_from_logits():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    assert logits_of.looks_like_probabilities(jax.nn.softmax(logits))
    assert not logits_of.looks_like_probabilities(logits)
    assert not logits_of.looks_like_probabilities(jax.nn.log_softmax(logits))


def test_typical_lead():
    logits = [[0.0, 4.0, 1.0], [9.0, 2.0, 8.0], [0.0, 5.0, 0.0]]
    assert logits_of.typical_lead(np.asarray(logits)) == 3
    assert logits_of.typical_lead(np.ones((2, 3))) == 1
