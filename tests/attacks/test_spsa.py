"""SPSA: its estimate against the gradient, the linear optimum, what it counts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, losses, threat
from jaxrobust.attacks._objective import Problem
from jaxrobust.attacks.spsa import SPSA

SHAPE = (4, 3, 3, 2)
WEIGHTS = jax.random.normal(jax.random.key(5), (18, 3))
KEY = jax.random.key(0)


def linear(x):
    return x.reshape(x.shape[0], -1) @ WEIGHTS


def far(x):
    """A linear model that nothing nearby fools: class 0 is far ahead."""
    return linear(x) + jnp.array([[100.0, 0, 0]])


def images():
    x = jax.random.uniform(jax.random.key(1), SHAPE, minval=0.3, maxval=0.7)
    return x, jnp.argmax(linear(x), axis=1)


def test_one_pair_is_the_slope_along_its_signs():
    """On a linear loss, (w . v) v with entries of v all 1 or -1, whatever delta."""
    x, _ = images()
    y = jnp.zeros(4, int)

    def loss(logits, y):
        return logits[:, 1]

    problem = Problem(linear, x, y, 0.1, 0.01, loss=loss)
    found = SPSA(1, delta=0.3, samples=2).estimate(
        problem, jax.random.split(KEY, 4), 0, x
    )
    w = np.asarray(WEIGHTS[:, 1])
    signs = np.sign(np.asarray(found).reshape(4, -1))
    rise = signs @ w  # the sign of v itself cancels, so this is |w . v|
    assert (rise > 0).all()
    chex.assert_trees_all_close(
        np.asarray(found).reshape(4, -1), rise[:, None] * signs, rtol=1e-4
    )
    assert len(np.unique(signs, axis=0)) == 4


def test_the_estimate_has_the_gradient_for_its_mean():
    x, y = images()
    problem = Problem(linear, x, y, 0.1, 0.01, loss="ce", targeted=True)
    gradient = -jax.grad(lambda x: losses.cross_entropy(linear(x), y).sum())(x)
    method = SPSA(1, samples=8192, delta=1e-2)
    found = jax.jit(lambda i: method.estimate(problem, jax.random.split(KEY, 4), i, x))(
        3
    )
    scale = float(jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3))).max())
    # Each entry deviates by about |g| / sqrt(pairs) = |g| / 64.
    chex.assert_trees_all_close(found, gradient, rtol=1e-7, atol=5 * scale / 64)


@pytest.mark.parametrize("targeted", [False, True])
def test_reaches_the_linear_optimum_in_linf(targeted):
    x, _ = images()
    x = x.at[0].set(0.0).at[1].set(1.0)  # where the box cuts the ball
    y = jnp.full(4, 1 if targeted else 0)

    def loss(logits, y):
        return logits[:, 1] * (-1 if targeted else 1)

    x_adv = attacks.spsa(
        far, x, y, key=KEY, eps=0.05, steps=60, lr=0.01, samples=64, loss=loss,
        targeted=targeted,
    )  # fmt: skip
    best = jnp.clip(x + 0.05 * jnp.sign(WEIGHTS[:, 1]).reshape(1, 3, 3, 2), 0, 1)
    rise = linear(x_adv)[:, 1] - linear(x)[:, 1]
    chex.assert_trees_all_close(rise, (linear(best) - linear(x))[:, 1], rtol=0.02)


def test_targeted_and_what_is_misclassified_already():
    x, y = images()
    target = (y + 1) % 3
    x_adv = attacks.spsa(linear, x, target, key=KEY, eps=0.4, steps=30, samples=16,
                         lr=0.05, targeted=True)  # fmt: skip
    assert (jnp.argmax(linear(x_adv), axis=1) == target).all()
    wrong = attacks.spsa(linear, x, target, key=KEY, eps=0.4, steps=2, samples=2)
    chex.assert_trees_all_equal(wrong, x)


def test_what_fooled_is_kept_and_nan_is_neither_kept_nor_a_slope():
    x, y = images()

    def broken(z):
        """Row 2 turns NaN once it moves."""
        moved = jnp.any(z != x, axis=(1, 2, 3))[:, None]
        return jnp.where((jnp.arange(4)[:, None] == 2) & moved, jnp.nan, linear(z))

    few, more = (
        attacks.spsa(broken, x, y, key=KEY, eps=0.3, steps=s, samples=16, lr=0.05)
        for s in (6, 9)
    )
    fooled = jnp.argmax(linear(few), axis=1) != y
    assert fooled.sum() >= 2
    chex.assert_trees_all_equal(more[fooled], few[fooled])
    chex.assert_trees_all_equal(more[2], x[2])
    chex.assert_tree_all_finite(more)


def test_counts_of_calls():
    x, y = images()
    calls = []

    def counted(z):
        calls.append(z.shape)
        return linear(z)

    problem = Problem(counted, x, y, 0.1, 0.01, loss="margin")
    method, keys = SPSA(1, samples=2), jax.random.split(KEY, 4)
    carry = jax.eval_shape(lambda: method.start(problem, keys, 0))
    assert calls == []
    jax.eval_shape(lambda carry: method.step(problem, keys, 0, carry), carry)
    assert calls == [SHAPE] * (1 + 2)
    jax.eval_shape(lambda carry: method.finish(problem, keys, carry), carry)
    assert calls == [SHAPE] * (1 + 2 + 1)


def test_pairs_share_the_randomness_of_the_model():
    x, y = images()

    def noisy(z, keys):
        """The noise is far above the differences, so pairs must share it."""
        noise = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
        return far(z) + 10 * noise

    def loss(logits, y):
        return logits[:, 1]

    x_adv = attacks.spsa(noisy, x, 0 * y, key=KEY, eps=0.1, steps=8, samples=64,
                         lr=0.05, stochastic=True, eot_samples=2,
                         loss=loss)  # fmt: skip
    rise = (linear(x_adv) - linear(x))[:, 1]
    assert (rise > 0.5 * 0.1 * jnp.abs(WEIGHTS[:, 1]).sum()).mean() >= 0.5


def test_rows_may_be_at_steps_of_their_own():
    x, y = images()
    problem = Problem(far, x, y, 0.1, 0.01, loss="margin", norm="l2")
    method, keys = SPSA(9, samples=4), jax.random.split(KEY, 4)
    carry = method.start(problem, keys, 0)
    step = jax.jit(lambda i: method.step(problem, keys, i, carry).x)
    mixed = step(jnp.array([0, 5, 0, 5]))
    for row, i in enumerate((0, 5, 0, 5)):
        chex.assert_trees_all_equal(mixed[row], step(jnp.full(4, i))[row])
    assert float(threat.distance(mixed, x, norm="l2").min()) > 0.01


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"key": None}, ValueError, "`key` is missing and SPSA needs one"),
        ({"steps": -1}, ValueError, "`steps` must be at least 0, got -1"),
        ({"samples": 0}, ValueError, "`samples` must be at least 1, got 0"),
        ({"samples": 5}, ValueError, "`samples` .* must be even, got 5"),
        ({"samples": 4.0}, TypeError, "`samples` must be a Python int"),
        ({"delta": 0.0}, ValueError, "`delta` must be finite and above 0, got 0.0"),
        ({"delta": "1"}, TypeError, "`delta` must be a number, got '1'"),
        ({"lr": -0.1}, ValueError, "`lr` must be at least 0"),
        ({"eps": None}, TypeError, "`eps` must be a number"),
        ({"loss": "cs"}, ValueError, "Unknown loss 'cs'"),
    ],
)
def test_wrong_arguments(wrong, error, message):
    with pytest.raises(error, match=message):
        attacks.spsa(linear, *images(), **({"key": KEY, "eps": 0.1} | wrong))
