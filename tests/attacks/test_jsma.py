"""JSMA: the best pair against all pairs, the paper's loop in NumPy, what it refuses."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, threat
from jaxrobust.attacks.jsma import best_pair

SHAPE = (6, 3, 3, 2)
SIZE = math.prod(SHAPE[1:])


def best_of_all_pairs(a, c, free):
    """Algorithm 2 of the paper, for growth a of the target and fall c of the rest."""
    best, pair = 0.0, None
    for p in range(len(a)):
        for q in range(p + 1, len(a)):
            rise, fall = a[p] + a[q], c[p] + c[q]
            if free[p] and free[q] and rise > 0 and fall > 0 and rise * fall > best:
                best, pair = rise * fall, (p, q)
    return pair


@pytest.mark.parametrize("block", [1, 40 * 40 * 7, 1 << 21])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_best_pair_is_the_best_of_all(block, scale, monkeypatch):
    """Whatever the blocks, for rows of rise and fall that go together or do not."""
    monkeypatch.setitem(best_pair.__globals__, "_BLOCK", block)
    rng = np.random.default_rng(0)
    a, c = rng.normal(size=(2, 40, 23))
    c[:10] = 0.2 * c[:10] - a[:10]
    c[10:20] = 0.2 * c[10:20] + a[10:20]
    c[20] = -abs(c[20])  # nothing falls
    free = rng.random((40, 23)) > 0.4
    free[21], free[22], free[23] = False, np.arange(23) == 3, np.arange(23) < 2
    a[23, :2] = c[23, :2] = 1.0
    inputs = (jnp.asarray(v * scale, jnp.float32) for v in (a, c))
    p, q, found = best_pair(*inputs, jnp.asarray(free))
    for row in range(40):
        expected = best_of_all_pairs(a[row], c[row], free[row])
        assert bool(found[row]) == (expected is not None)
        if expected is not None:
            assert tuple(sorted((int(p[row]), int(q[row])))) == expected
    assert not found[20:23].any()
    assert found[23]


def linear(w):
    """Logits of a linear model `[d, K]`."""
    return lambda x: x.reshape(x.shape[0], -1) @ w


def papers_loop(w, x, y, target, theta, gamma, targeted):
    """Algorithm 3 on a linear model: one image, one pair at a time."""
    x = x.reshape(-1).astype(np.float64)
    sign = np.sign(theta)
    a = sign * w[:, target]
    c = -sign * (w.sum(axis=1) - w[:, target])
    for _ in range(int(SIZE * gamma / 2)):
        label = np.argmax(x @ w)
        if label == target if targeted else label != y:
            break
        pair = best_of_all_pairs(a, c, x < 1 if theta > 0 else x > 0)
        if pair is None:
            break
        x[list(pair)] = np.clip(x[list(pair)] + theta, 0, 1)
    label = np.argmax(x @ w)
    return x if (label == target if targeted else label != y) else None


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize(
    ("theta", "gamma", "targeted"),
    [(1.0, 0.6, False), (0.5, 1.0, True), (-0.3, 1.0, False)],
)
def test_linear_model_is_the_papers_loop(classes, theta, gamma, targeted):
    rng = np.random.default_rng(1)
    w = rng.normal(size=(SIZE, classes))
    # Values at the walls from the beginning, which cannot be moved any further.
    x = np.clip(rng.uniform(-0.2, 1.2, SHAPE), 0, 1).astype(np.float32)
    z = x.reshape(len(x), -1) @ w
    y = z.argmax(axis=1)
    second = np.argsort(z, axis=1)[:, -2]
    x_adv = attacks.jsma(
        linear(jnp.asarray(w, jnp.float32)),
        jnp.asarray(x),
        jnp.asarray(second if targeted else y),
        theta=theta,
        gamma=gamma,
        targeted=targeted,
    )
    moved = 0
    for row in range(len(x)):
        expected = papers_loop(w, x[row], y[row], second[row], theta, gamma, targeted)
        moved += expected is not None
        flat = x[row] if expected is None else expected.reshape(x[row].shape)
        chex.assert_trees_all_close(x_adv[row], flat, rtol=0, atol=1e-6)
    assert moved > 0


def test_gamma_is_the_share_of_values_that_change():
    w = jax.random.normal(jax.random.key(0), (SIZE, 3))
    x = jax.random.uniform(jax.random.key(1), SHAPE)
    y = jnp.argmax(linear(w)(x), axis=1)
    changed = []
    for gamma in (0.0, 0.25, 1.0):
        x_adv = attacks.jsma(linear(w), x, y, theta=0.5, gamma=gamma)
        share = np.asarray(jnp.mean(x_adv != x, axis=(1, 2, 3)))
        assert share.max() <= gamma
        changed.append((share > 0).sum())
    assert changed[0] == 0
    assert 0 < changed[1] <= changed[2]
    with pytest.raises(ValueError, match=r"`gamma` .* in \[0, 1\], got 1.5"):
        attacks.jsma(linear(w), x, y, gamma=1.5)
    with pytest.raises(ValueError, match=r"`theta` .* other than 0, got 0"):
        attacks.jsma(linear(w), x, y, theta=0.0)


@pytest.mark.parametrize("norm", threat.NORMS)
def test_eps_is_a_length_in_the_norm(norm):
    w = jax.random.normal(jax.random.key(0), (SIZE, 3))
    x = jax.random.uniform(jax.random.key(1), SHAPE)
    y = jnp.argmax(linear(w)(x), axis=1)
    options = {"theta": 0.2, "gamma": 1.0, "norm": norm}
    any_length = attacks.jsma(linear(w), x, y, **options)
    lengths = threat.distance(any_length, x, norm=norm)
    eps = float(jnp.sort(lengths)[2]) * 1.0001
    x_adv = attacks.jsma(linear(w), x, y, eps=eps, **options)
    inside = (lengths <= eps)[:, None, None, None]
    chex.assert_trees_all_equal(x_adv, jnp.where(inside, any_length, x))


def test_what_it_cannot_or_need_not_move_stays():
    """Misclassified already; NaN once moved; a logit that no other falls with."""
    w = jax.random.normal(jax.random.key(0), (SIZE, 3))
    x = jax.random.uniform(jax.random.key(1), SHAPE)
    y = jnp.argmax(linear(w)(x), axis=1)
    y = y.at[1].set((y[1] + 1) % 3)
    broken = jnp.arange(len(x))[:, None] == 2

    def fn(z):
        moved = jnp.any(z != x, axis=(1, 2, 3))[:, None]
        return jnp.where(broken & moved, jnp.nan, linear(w)(z))

    with pytest.warns(attacks.RobustnessWarning, match="not finite for 1 of"):
        x_adv = attacks.jsma(fn, x, y, gamma=1.0)
    chex.assert_trees_all_equal(x_adv[1:3], x[1:3])
    assert (jnp.argmax(linear(w)(x_adv), axis=1) != y)[3:].any()
    rising = jnp.abs(w)  # every value that raises the target raises the others
    y = jnp.argmax(linear(rising)(x), axis=1)
    chex.assert_trees_all_equal(attacks.jsma(linear(rising), x, y, gamma=1.0), x)


def test_stochastic_model():
    w = jax.random.normal(jax.random.key(0), (SIZE, 3))
    x = jax.random.uniform(jax.random.key(1), SHAPE)
    y = jnp.argmax(linear(w)(x), axis=1)

    def noisy(z, keys):
        return linear(w)(z) + 1e-3 * jax.vmap(lambda k: jax.random.normal(k, (3,)))(
            keys
        )

    x_adv = attacks.jsma(noisy, x, y, key=jax.random.key(2), gamma=1.0,
                         stochastic=True, eot_samples=2)  # fmt: skip
    assert (jnp.argmax(linear(w)(x_adv), axis=1) != y).mean() >= 0.5
