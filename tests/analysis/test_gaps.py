"""Probability gaps in closed form."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import analysis


def test_two_classes_are_a_tanh(compiled):
    z = jnp.asarray([0.0, 1.0, -2.0, 90.0])
    logits = jnp.stack([z, -z], -1)
    gap = compiled(analysis.probability_gap)(logits, jnp.zeros(4, int))
    chex.assert_trees_all_close(gap, np.tanh(z), rtol=0, atol=1e-6)


def test_the_best_wrong_class_counts():
    p = np.asarray([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    gap = analysis.probability_gap(jnp.log(p), jnp.asarray([0, 2]))
    chex.assert_trees_all_close(gap, np.asarray([0.2, -0.3]), rtol=0, atol=1e-6)
    shifted = analysis.probability_gap(jnp.log(p) + 100, jnp.asarray([0, 2]))
    chex.assert_trees_all_close(shifted, gap, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 1), (3,), (2, 3, 4)])
def test_refusals(shape):
    with pytest.raises(ValueError, match=r"`?logits`? .*(shape|2 classes)"):
        analysis.probability_gap(jnp.zeros(shape), jnp.zeros(shape[0], int))


def test_log_odds_rise_with_the_loss_where_float32_is_blind():
    logits = np.array([[1.0, 2.0, 0.5], [1000.0, 0.0, 3.0]])
    y = np.array([2, 0])
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    found = analysis.log_odds(logits, y)
    chex.assert_trees_all_close(found[0], np.log((1 - p[2]) / p[2]), rtol=1e-7)
    chex.assert_trees_all_close(found[1], -997 + np.log1p(np.exp(-3)), rtol=1e-7)
    on_device = analysis.log_odds(jnp.asarray(logits, jnp.float32), jnp.asarray(y))
    chex.assert_trees_all_close(on_device, found, rtol=1e-6)
