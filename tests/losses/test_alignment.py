"""GradAlign's regulariser: the cosine of two input gradients, per image."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxrobust import losses

KEYS = jax.random.split(jax.random.key(0))
G, H = (jax.random.normal(key, (3, 4, 4, 2)) for key in KEYS)


def test_it_is_one_minus_the_cosine():
    g, h = (np.asarray(v, np.float64).reshape(3, -1) for v in (G, H))
    lengths = np.linalg.norm(g, axis=1) * np.linalg.norm(h, axis=1)
    expected = 1 - (g * h).sum(1) / lengths
    chex.assert_trees_all_close(losses.misalignment(G, H), expected, rtol=1e-5)
    chex.assert_trees_all_close(losses.misalignment(G, -G), jnp.full(3, 2.0), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_of_gradients_does_not_count(scale):
    found = losses.misalignment(G * scale, H)
    chex.assert_trees_all_close(found, losses.misalignment(G, H), rtol=1e-5)


def test_a_gradient_of_zero_has_no_direction():
    g = G.at[1].set(0)
    value, grad = jax.value_and_grad(lambda v: losses.misalignment(v, H).sum())(g)
    assert losses.misalignment(g, H)[1] == 0
    chex.assert_tree_all_finite((value, grad))


def test_gradients():
    with jax.enable_x64(True):
        g, h = (jnp.asarray(np.asarray(v), jnp.float64) for v in (G, H))
        check_grads(lambda g: losses.misalignment(g, h), (g,), 2, ["rev"], eps=1e-5)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"`grad_other`.*\(3, 4, 4, 2\), got \(1, "):
        losses.misalignment(G, H[:1])
    with pytest.raises(TypeError, match=r"`grad` must be a floating.*int32"):
        losses.misalignment(G.astype(int), H)
