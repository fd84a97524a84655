"""The squared errors of SCORE against their formula in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxrobust import losses

RNG = np.random.default_rng(0)
Z, Z_ADV = RNG.normal(size=(2, 3, 4)).astype(np.float32)
Y = np.array([0, 3, 1], np.int32)
SHARES = RNG.dirichlet(np.ones(4), 3).astype(np.float32)


def softmax(z):
    exp = np.exp(z.astype(np.float64))
    return exp / exp.sum(1, keepdims=True)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("slack", [0.0, 0.1])
def test_score_by_hand(shares, slack):
    q = SHARES if shares else np.eye(4)[Y]
    p, p_adv = softmax(Z), softmax(Z_ADV)
    change = np.maximum(((p_adv - p) ** 2).sum(1) - slack, 0)
    expected = ((p - q) ** 2).sum(1) + 3 * change
    y = SHARES if shares else Y
    found = losses.score(*map(jnp.asarray, (Z, Z_ADV, y)), beta=3.0, slack=slack)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_distributions_of_one_class_are_labels():
    hard = jnp.asarray(np.eye(4, dtype=np.float32)[Y])
    for loss in (losses.cross_entropy, losses.squared_error):
        one, other = loss(jnp.asarray(Z), hard), loss(jnp.asarray(Z), jnp.asarray(Y))
        chex.assert_trees_all_close(one, other, rtol=1e-6)
    z, z_adv = jnp.asarray(Z), jnp.asarray(Z_ADV)
    one, other = (losses.trades(z, z_adv, y) for y in (hard, jnp.asarray(Y)))
    chex.assert_trees_all_close(one, other, rtol=1e-6)


def test_cross_entropy_is_linear_in_the_shares():
    log_p = np.log(softmax(Z))
    found = losses.cross_entropy(jnp.asarray(Z), jnp.asarray(SHARES))
    chex.assert_trees_all_close(found, -(SHARES * log_p).sum(1), rtol=1e-5)
    # A class without a share costs nothing where it is impossible.
    value = losses.cross_entropy(jnp.array([[0.0, -jnp.inf]]), jnp.array([[1.0, 0.0]]))
    chex.assert_trees_all_close(value, jnp.zeros(1))


def test_gradients():
    with jax.enable_x64(True):
        z, z_adv = (jnp.asarray(v, jnp.float64) for v in (Z, Z_ADV))
        fn = lambda z, z_adv: losses.score(z, z_adv, jnp.asarray(Y))  # noqa: E731
        check_grads(fn, (z, z_adv), 1, ["rev"], eps=1e-6)


def test_arguments_are_checked():
    z, y = jnp.asarray(Z), jnp.asarray(Y)
    for loss in (losses.cross_entropy, losses.squared_error):
        with pytest.raises(ValueError, match=r"`y` must have the shape of `logits`"):
            loss(z, jnp.ones((3, 3)))
        assert np.isnan(loss(z, jnp.array([0, 7, 1]))[1])
        for wrong in (10 * SHARES, SHARES - 1.0, np.full_like(SHARES, np.nan)):
            mixed = np.where(np.arange(3)[:, None] == 1, wrong, SHARES)
            with pytest.raises(ValueError, match=r"`y` must be distr.* in row 1"):
                loss(z, mixed)
            there = np.asarray(jax.jit(loss)(z, jnp.asarray(mixed)))
            assert np.isnan(there).tolist() == [False, True, False]
        half = jnp.asarray(SHARES, jnp.bfloat16)  # sums to 1 but for rounding
        assert np.isfinite(loss(z.astype(jnp.bfloat16), half)).all()
    with pytest.raises(TypeError, match="integer labels"):
        losses.margin(z, jnp.asarray(SHARES))
    for name in ("beta", "slack"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 0"):
            losses.score(z, z, y, **{name: -1.0})
