"""MART and the divergence: closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses

P = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3]])
Q = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.25, 0.25, 0.5]])
Y = np.array([0, 2, 1])


def logits(p, shift=2.5):
    return jnp.log(jnp.asarray(p, jnp.float32)) + shift


@pytest.mark.parametrize("beta", [0.0, 5.0, 6.0])
def test_closed_form(beta):
    """-log q_y - log(1 - max_{k != y} q_k) + beta KL(p || q) (1 - p_y)."""
    rows = np.arange(3)
    rival = np.where(np.eye(3, dtype=bool)[Y], 0, Q).max(1)
    boosted = -np.log(Q[rows, Y]) - np.log(1 - rival)
    divergence = (P * np.log(P / Q)).sum(1)
    expected = boosted + beta * divergence * (1 - P[rows, Y])
    value = losses.mart(logits(P), logits(Q, -1.0), jnp.asarray(Y), beta)
    chex.assert_trees_all_close(value, expected, rtol=1e-5)


def test_gradient_reaches_both_logits_as_in_the_release():
    with jax.enable_x64(True):
        z, w = jnp.log(jnp.asarray(P)), jnp.log(jnp.asarray(Q))

        @jax.jit
        def fn(z, w):
            return losses.mart(z, w, jnp.asarray(Y), 6.0).sum()

        grads = jax.jit(jax.grad(fn, (0, 1)))(z, w)
        for number, grad in enumerate(grads):
            assert np.abs(grad).max() > 0.01
            step = 1e-6 * grad
            moved = [a + step * (i == number) for i, a in enumerate((z, w))]
            slope = (fn(*moved) - fn(z, w)) / 1e-6
            chex.assert_trees_all_close(slope, (grad**2).sum(), rtol=1e-4)


def test_a_certain_rival_costs_its_lead():
    """-log(1 - q_k) grows like the lead of class k; 1 - q_k itself rounds to 0."""
    z = jnp.array([[0.0, 80.0, 0.0]])
    value = losses.mart(z, z, jnp.array([0]), 0.0)
    chex.assert_trees_all_close(value, np.asarray([80 + 80 - np.log(2)]), rtol=1e-6)


def test_divergence_by_hand_and_checked():
    expected = (P * np.log(P / Q)).sum(1)
    value = losses.kl_divergence(logits(P), logits(Q))
    chex.assert_trees_all_close(value, expected, rtol=1e-4)
    chex.assert_trees_all_equal(losses.kl_divergence(logits(P), logits(P)), 0)
    with pytest.raises(ValueError, match=r"`logits_adv`.*\(3, 3\), got \(2, 3\)"):
        losses.kl_divergence(logits(P), logits(Q)[:2])
    with pytest.raises(TypeError, match="`logits` must be a floating"):
        losses.kl_divergence(jnp.zeros((2, 3), int), logits(Q)[:2])
