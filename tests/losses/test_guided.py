"""HAT and LBGAT: closed forms, and which network the gradients reach."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses

Z, ADV, FAR, GUIDE = jax.random.normal(jax.random.key(0), (4, 5, 3))
Y, SAID = jnp.array([0, 1, 2, 0, 1]), jnp.array([1, 1, 0, 2, 1])


def log_p(z):
    z = np.asarray(z, np.float64)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def divergence():
    return (np.exp(log_p(Z)) * (log_p(Z) - log_p(ADV))).sum(1)


def test_hat_by_hand():
    rows = np.arange(5)
    want = -log_p(Z)[rows, Y] + 3 * divergence() - 0.7 * log_p(FAR)[rows, SAID]
    found = losses.hat(Z, ADV, FAR, Y, SAID, beta=3.0, gamma=0.7)
    chex.assert_trees_all_close(found, want.astype(np.float32), rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_lbgat_by_hand(beta):
    distance = np.square(np.asarray(ADV, np.float64) - np.asarray(GUIDE)).mean(1)
    want = distance - log_p(GUIDE)[np.arange(5), Y] + beta * divergence()
    found = losses.lbgat(Z, ADV, GUIDE, Y, beta)
    chex.assert_trees_all_close(found, want.astype(np.float32), rtol=1e-5)


def test_the_guide_gives_in():
    """In the release the distance moves both networks, towards each other."""

    def total(adv, guide):
        return losses.lbgat(Z, adv, guide, Y, 0.0).sum()

    of_adv, of_guide = jax.grad(total, (0, 1))(ADV, GUIDE)
    without = jax.grad(lambda g: losses.cross_entropy(g, Y).sum())(GUIDE)
    chex.assert_trees_all_close(of_adv, -(of_guide - without), atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`gamma`"):
        losses.hat(Z, ADV, FAR, Y, SAID, gamma=-1.0)
    with pytest.raises(ValueError, match=r"`logits_guide`.*\(5, 3\), got \(5, 2\)"):
        losses.lbgat(Z, ADV, GUIDE[:, :2], Y)
