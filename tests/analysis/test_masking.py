"""Numbers of masked gradients, against closed forms."""

import chex
import jax.numpy as jnp
import numpy as np

from jaxrobust.analysis import masking
from tests.linear_toy import images, linear


def test_gradient_and_its_scale_are_the_closed_form():
    w, x = np.array([1.0, -2.0, 0.5]), images()
    logits_fn, y = linear(w), jnp.ones(6, jnp.int32)
    for scale in (1.0, 3.0):
        grad, logits = masking.input_gradient(logits_fn, x, y, scale)
        score = np.asarray(logits)[:, 1]
        want = -scale * w / (1 + np.exp(scale * score))[:, None]
        chex.assert_trees_all_close(grad.reshape(6, 3), want, rtol=1e-5)
    chex.assert_trees_all_equal(logits, logits_fn(x))


def test_health_of_gradients():
    grad = np.zeros((4, 1, 2, 1), np.float32)
    grad[1, 0, 1] = 2
    grad[2, 0] = [[3], [4]]
    grad[3, 0, 0] = np.nan
    health = masking.gradient_health(jnp.asarray(grad))
    chex.assert_trees_all_equal(health.zero, np.asarray([True, False, False, False]))
    chex.assert_trees_all_equal(health.finite, np.asarray([True, True, True, False]))
    chex.assert_trees_all_close(health.length[:3], np.asarray([0, 2, 5]), rtol=1e-7)


def test_logits_that_are_not_finite_are_no_success():
    logits = jnp.asarray([[np.nan, 1.0], [1.0, 0.0], [0.0, 1.0], [np.inf, 0.0]])
    correct = masking.is_correct(logits, jnp.ones(4, jnp.int32))
    chex.assert_trees_all_equal(correct, np.asarray([True, False, True, True]))
