"""Models to attack in place of others."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, losses

X = jax.random.uniform(jax.random.key(0), (4, 3, 3, 1))
Y = jnp.array([0, 1, 2, 0])
GIVEN = {"eps": 0.1, "step_size": 0.05, "steps": 3}


def net(w, x):
    return x.reshape(len(x), -1) @ w


def nets(*seeds):
    weights = [jax.random.normal(jax.random.key(s), (9, 3)) for s in seeds]
    return [jax.tree_util.Partial(net, w) for w in weights]


def test_means_of_logits_and_probabilities():
    one, two = nets(1, 2)
    z = [np.asarray(f(X), np.float64) for f in (one, two)]
    p = [np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in z]
    found = attacks.ensemble([one, two], weights=[3, 1])(X)
    chex.assert_trees_all_close(found, 0.75 * z[0] + 0.25 * z[1], rtol=1e-5)
    found = attacks.ensemble([one, two], "probabilities", weights=[3, 1])(X)
    expected = np.log(0.75 * p[0] + 0.25 * p[1])
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    loss = attacks.mean_loss([one, two], weights=[3, 1]).fn(X, Y)
    expected = 0.75 * losses.cross_entropy(z[0], Y)
    expected += 0.25 * losses.cross_entropy(z[1], Y)
    chex.assert_trees_all_close(loss, expected, rtol=1e-5)


def test_of_one_model_it_is_that_model():
    (one,) = nets(1)
    plain = attacks.bim(one, X, Y, **GIVEN)
    for mean in ("logits", "probabilities"):
        x_adv = attacks.bim(attacks.ensemble([one], mean), X, Y, **GIVEN)
        chex.assert_trees_all_close(x_adv, plain, rtol=0, atol=1e-6)
    loss = attacks.mean_loss([one])
    chex.assert_trees_all_equal(attacks.bim(one, X, Y, loss=loss, **GIVEN), plain)


def test_large_logits_stay_finite():
    w = jnp.tile(jnp.arange(3.0), (9, 1))
    sure = [jax.tree_util.Partial(net, size * w) for size in (1e4, -1e4)]
    chex.assert_tree_all_finite(attacks.ensemble(sure, "probabilities")(X))


def test_new_weights_neither_recompile_nor_go_unnoticed(compilations):
    first = attacks.bim(attacks.ensemble(nets(1, 2)), X, Y, **GIVEN)
    compiled = compilations()
    new = attacks.bim(attacks.ensemble(nets(3, 4)), X, Y, **GIVEN)
    assert compilations() == compiled
    assert jnp.abs(new - first).max() > 1e-3


def test_mistakes_are_named():
    one, two = nets(1, 2)
    with pytest.raises(ValueError, match="at least one model"):
        attacks.ensemble([])
    with pytest.raises(ValueError, match="`weights` one positive number"):
        attacks.ensemble([one, two], weights=[1, 0])
    with pytest.raises(ValueError, match=r"'probabilties'.*probabilities"):
        attacks.ensemble([one], "probabilties")
    with pytest.raises(ValueError, match="same classes"):
        attacks.ensemble([one, lambda x: two(x)[:, :2]])(X)
    with pytest.raises(ValueError, match="Unknown loss 'cee'"):
        attacks.mean_loss([one], "cee")


@pytest.mark.parametrize("under", [lambda f: f, jax.jit])
def test_straight_through_is_exact_forward_and_the_other_backward(under):
    joined = attacks.straight_through(lambda x: jnp.floor(x * 7) / 7, jnp.sin)
    value, pull = jax.vjp(under(joined), X)
    chex.assert_trees_all_equal(value, jnp.floor(X * 7) / 7)
    chex.assert_trees_all_close(pull(jnp.ones_like(X))[0], jnp.cos(X), rtol=1e-6)
    _, forward = jax.jvp(joined, (X,), (jnp.ones_like(X),))
    chex.assert_trees_all_close(forward, jnp.cos(X), rtol=1e-6)


def test_straight_through_names_shapes_that_differ():
    with pytest.raises(ValueError, match=r"one shape, got \(4, 3, 3\) and"):
        attacks.straight_through(lambda x: x[..., 0])(X)


def test_it_gives_attacks_a_gradient_and_is_told_from_its_forward_pass():
    (one,) = nets(1)

    def shattered(x):
        return one(jnp.round(x * 15) / 15)

    rounded = attacks.straight_through(lambda x: jnp.round(x * 15) / 15)
    with pytest.warns(attacks.RobustnessWarning, match="zero"):
        stuck = attacks.bim(shattered, X, Y, **GIVEN)
    chex.assert_trees_all_equal(stuck, X)
    x_adv = attacks.bim(lambda x: one(rounded(x)), X, Y, **GIVEN)
    before, after = (losses.cross_entropy(shattered(z), Y) for z in (X, x_adv))
    assert (after > before).all()


def test_draws_are_a_rows_own():
    (one,) = nets(1)

    def noisy(image, key):
        return image + jax.random.normal(key, image.shape)

    keys = jax.random.split(jax.random.key(3), 4)
    changed = attacks.with_transform(one, noisy)
    expected = one(jnp.stack([noisy(x, k) for x, k in zip(X, keys, strict=True)]))
    chex.assert_trees_all_close(changed(X, keys), expected, rtol=1e-6)
    twice = attacks.with_transform(
        attacks.with_transform(one, noisy), noisy, stochastic=True
    )
    assert jnp.abs(twice(X, keys) - changed(X, keys)).max() > 0.1
    order = jnp.array([2, 0, 3, 1])
    chex.assert_trees_all_close(
        twice(X[order], keys[order]), twice(X, keys)[order], rtol=1e-5
    )
